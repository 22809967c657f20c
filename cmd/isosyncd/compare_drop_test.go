//go:build bench

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"isosyncd/lxd"
)

// drops are goals 2a to 2c: one image into a folder, from the end of cp.
func (c *topic) drops() {
	size := c.size(1<<30, 16<<20)
	s := c.compare("One image of "+mebibytes(float64(size))+", from the end of cp until its volume is marked", c.rounds,
		c.dropped("isosyncd, early upload", size, "auto"),
		c.dropped("isosyncd, no early upload", size, "off"),
		c.looped(size),
		c.secondPhase(size),
		c.trickled("isosyncd, early upload, of a file that comes at 256 MiB a second", size, 256<<20, "auto"),
		c.trickled("isosyncd, no early upload, of a file that comes at 256 MiB a second", size, 256<<20, "off"))
	c.judge("2a", ratio(s[0], s[3]))
	c.judge("2b", ratio(s[1], s[2]))
	c.figure("early upload / loop", ratio(s[0], s[2]).text(times), "for information")
	c.figure("at 256 MiB a second: early upload / none", ratio(s[4], s[5]).text(times), "for information")
	c.figure("early upload at 256 MiB a second / the server alone", ratio(s[4], s[3]).text(times), "for information")

	const small = 1 << 20
	rounds := 3 * c.rounds // they are short
	s = c.compare("One image of "+mebibytes(small)+", from the end of cp until its volume is marked", rounds,
		c.dropped("isosyncd, early upload", small, "auto"),
		c.dropped("isosyncd, no early upload", small, "off"),
		c.looped(small))
	c.judge("2c", s[0].spread())
}

// dropped copies an image into the folder of a daemon.
func (c *topic) dropped(name string, size int64, early string) side {
	return side{name, func() (time.Duration, error) {
		path, volume := c.image(size), c.next("drop")
		c.stamp(path)
		d := c.daemon(c.server, "--early-upload", early)
		c.timed(c.dir, "cp", path, filepath.Join(d.folder, volume+".iso"))
		took := c.await(time.Now(), volume, marked)
		c.made(volume, size, true)
		c.end(d)
		c.remove(volume)
		return took, nil
	}}
}

// trickled writes an image into the folder of a daemon as a download does: so many bytes a second.
func (c *topic) trickled(name string, size, rate int64, early string) side {
	return side{name, func() (time.Duration, error) {
		path, volume := c.image(size), c.next("trickle")
		c.stamp(path)
		d := c.daemon(c.server, "--early-upload", early)
		c.trickle(path, filepath.Join(d.folder, volume+".iso"), rate)
		took := c.await(time.Now(), volume, marked)
		c.made(volume, size, true)
		c.end(d)
		c.remove(volume)
		return took, nil
	}}
}

func (c *topic) trickle(from, to string, rate int64) {
	c.t.Helper()
	src, err := os.Open(from)
	if err != nil {
		c.t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		c.t.Fatal(err)
	}
	defer dst.Close()
	const piece = 1 << 20
	tick := time.NewTicker(time.Second * piece / time.Duration(rate))
	defer tick.Stop()
	for err == nil {
		_, err = io.CopyN(dst, src, piece)
		<-tick.C
	}
	if err = errors.Join(dst.Close(), err); !errors.Is(err, io.EOF) {
		c.t.Fatal(err)
	}
}

// loopScript is what people write who have no isosyncd: $1 is the folder, $2 the project.
const loopScript = `inotifywait -m -e close_write --format %f "$1" | while read -r f; do
  incus storage volume import default "$1/$f" "${f%.iso}" --type iso --quiet --project "$2" && echo "made $f"
done`

// looped copies an image into a folder that such a loop watches. Its end is what the loop says after the import.
func (c *topic) looped(size int64) side {
	return side{"`inotifywait` and `incus storage volume import`", func() (time.Duration, error) {
		path, volume := c.image(size), c.next("loop")
		c.stamp(path)
		folder := filepath.Join(c.dir, volume)
		if err := os.Mkdir(folder, 0o755); err != nil {
			c.t.Fatal(err)
		}
		said, stop := c.loop(folder)
		if err := said("Watches established"); err != nil {
			c.t.Fatal(err)
		}
		c.timed(c.dir, "cp", path, filepath.Join(folder, volume+".iso"))
		began := time.Now()
		unask := c.asked(volume)
		err := said("made " + volume)
		took := time.Since(began)
		unask()
		stop()
		c.made(volume, size, false)
		c.remove(volume)
		if err := os.RemoveAll(folder); err != nil {
			c.t.Error(err)
		}
		return took, err
	}}
}

// loop starts the loop. said waits for a line of its output.
func (c *topic) loop(folder string) (said func(string) error, stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	cmd := exec.CommandContext(ctx, "bash", "-c", loopScript, "loop", folder, c.server.Project())
	cmd.Env = c.environ()
	asGroup(cmd)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); _ = w.Close(); close(ended) }()
	stop = func() { cancel(); _, _ = io.Copy(io.Discard, r); <-ended }
	c.t.Cleanup(stop)
	lines, before := bufio.NewScanner(r), ""
	return func(want string) error {
		c.t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), want) {
				return nil
			}
			before += lines.Text() + "\n"
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return errHung
		}
		c.t.Fatalf("the loop ended, and never said %q:\n%s", want, before)
		return nil
	}, stop
}

// secondPhase is what nobody can do without: the server has all bytes, and makes the volume. The file is a copy that was
// just written, as it is for the others, so that as much waits to be written to the disk.
func (c *topic) secondPhase(size int64) side {
	return side{"the server alone: from its last byte to the end of its operation", func() (time.Duration, error) {
		path, volume := c.image(size), c.next("phase")
		c.stamp(path)
		copied := filepath.Join(c.dir, volume+".iso")
		c.timed(c.dir, "cp", path, copied)
		f, err := os.Open(copied)
		if err != nil {
			c.t.Fatal(err)
		}
		defer f.Close()
		defer os.Remove(copied)
		ctx, cancel := c.context()
		defer cancel()
		op, err := c.pool.Import(ctx, volume, f, size, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		began := time.Now()
		unask := c.asked(volume)
		err = c.pool.Wait(ctx, op)
		took := time.Since(began)
		unask()
		if err != nil {
			c.t.Fatal(err)
		}
		c.made(volume, size, false)
		c.remove(volume)
		return took, nil
	}}
}

// many are goals 3a and 3b: many images at once.
func (c *topic) many() {
	n, size := int(c.size(500, 10)), int64(400<<10)
	src := filepath.Join(c.dir, "many")
	if err := os.Mkdir(src, 0o755); err != nil {
		c.t.Fatal(err)
	}
	makeImages(c.t, src, n, size)
	var first sample
	s := c.compare(fmt.Sprintf("%d images of 400 KiB at once, until the last is marked", n), c.rounds,
		side{"isosyncd", func() (time.Duration, error) {
			one, all := c.manyDropped(src, n)
			first = append(first, one.Seconds())
			return all, nil
		}},
		side{"a loop of `incus storage volume import`", func() (time.Duration, error) {
			took, err := c.tried(2*patience, src, "bash", "-c", `for f in *.iso; do
  incus storage volume import default "$f" "${f%.iso}" --type iso --quiet --project "$1" || exit 1
done`, "loop", c.server.Project())
			if err != nil {
				c.remove(c.listed(-1, whole(size))...)
				return took, err
			}
			c.remove(c.listed(n, whole(size))...)
			return took, nil
		}},
		side{"package lxd alone, four images at a time, neither hash nor mark", func() (time.Duration, error) {
			took := c.manySent(src, n, size)
			c.remove(c.listed(n, whole(size))...)
			return took, nil
		}})
	c.figure("isosyncd: the first one marked", first.spread().text(seconds), "from the start of cp")
	for i, name := range []string{"isosyncd", "the loop", "package lxd alone"} {
		c.figure(name+": images", s[i].rates(float64(n)).spread().text(perSecond), "")
	}
	c.figure("package lxd alone / the loop", ratio(s[1], s[2]).text(times), "images a second: the most that this server does; for information")
	c.judge("3a", ratio(s[1], s[0]))
	c.judge("3b", first.spread())
}

// manyDropped copies n images into the folder of a daemon; both times are from the start of cp.
func (c *topic) manyDropped(src string, n int) (first, all time.Duration) {
	d := c.daemon(c.server)
	ctx, cancel := c.context()
	defer cancel()
	cp := exec.CommandContext(ctx, "bash", "-c", `cp "$1"/*.iso "$2"`, "cp", src, d.folder)
	began := time.Now()
	if err := cp.Start(); err != nil {
		c.t.Fatal(err)
	}
	for done := 0; done < n; time.Sleep(50 * time.Millisecond) {
		// An import counts once its volume is marked. The daemon tells it up to half a second later.
		done = int(c.metric(d, "imports_total"))
		if all = time.Since(began); done > 0 && first == 0 {
			first = all
		}
	}
	if err := cp.Wait(); err != nil {
		c.t.Fatalf("cp: %v", err)
	}
	c.end(d)
	c.remove(c.listed(n, marked)...)
	return first, all
}

// whole reports whether a volume has all its bytes, whoever made it.
func whole(size int64) func(lxd.Volume) bool {
	return func(v lxd.Volume) bool { return v.Size == size && v.ContentType == "iso" }
}

// manySent sends the images as fast as the server takes them.
func (c *topic) manySent(src string, n int, size int64) time.Duration {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	began := time.Now()
	var g errgroup.Group
	g.SetLimit(4)
	for i := range n {
		g.Go(func() error {
			name := fmt.Sprintf("image-%05d", i)
			f, err := os.Open(filepath.Join(src, name+".iso"))
			if err != nil {
				return err
			}
			defer f.Close()
			op, err := c.pool.Import(ctx, name, f, size, nil)
			if err != nil {
				return err
			}
			return c.pool.Wait(ctx, op)
		})
	}
	if err := g.Wait(); err != nil {
		c.t.Fatal(err)
	}
	return time.Since(began)
}
