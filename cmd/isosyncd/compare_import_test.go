//go:build bench

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// patience is for one image, which takes seconds.
const patience = 90 * time.Second

// imports are goals 1a and 1b: one image, by a command, until that ends.
func (c *topic) imports() {
	size := c.size(1<<30, 16<<20)
	path := c.image(size)
	state, conf := c.joined()
	way := func(name string, ours bool, run func(volume string) (time.Duration, error)) side {
		return side{name, func() (time.Duration, error) {
			c.stamp(path)
			volume := c.next("import")
			took, err := run(volume)
			c.made(volume, size, ours)
			c.remove(volume)
			return took, err
		}}
	}
	isosyncd := func(remote string) func(string) (time.Duration, error) {
		return func(volume string) (time.Duration, error) {
			return c.tried(patience, c.dir, c.program, "import", path, volume, "--remote", remote, "--state-dir", state, "--pool", "default",
				"--project", c.server.Project(), "--quiet")
		}
	}
	s := c.compare("Import of one image of "+mebibytes(float64(size)), c.rounds,
		way("`isosyncd import`, unix socket", true, isosyncd(c.server.Addr())),
		way("`isosyncd import`, HTTPS", true, isosyncd("bench")),
		way("`incus storage volume import`, unix socket", false, func(volume string) (time.Duration, error) {
			return c.tried(patience, c.dir, "incus", c.incus("", path, volume)...)
		}),
		way("`incus storage volume import`, HTTPS", false, func(volume string) (time.Duration, error) {
			return c.tried(patience, c.dir, "env", append([]string{"INCUS_CONF=" + conf, "incus"}, c.incus("bench:", path, volume)...)...)
		}),
		way("package lxd alone, unix socket, neither hash nor mark", false, func(volume string) (time.Duration, error) {
			return c.sent(path, volume, size), nil
		}))
	c.judge("1a", ratio(s[0], s[2]))
	c.judge("1b", ratio(s[1], s[2]))
	c.figure("HTTPS: isosyncd / incus", ratio(s[1], s[3]).text(times), "for information")
	c.figure("package lxd alone / incus, unix socket", ratio(s[4], s[2]).text(times), "the least that this server allows; for information")
	c.sendfile(path, size)
}

// sent sends an image and waits for the volume.
func (c *topic) sent(path, volume string, size int64) time.Duration {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	began := time.Now()
	f, err := os.Open(path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	op, err := c.pool.Import(ctx, volume, f, size, nil)
	if err == nil {
		err = c.pool.Wait(ctx, op)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return time.Since(began)
}

// joined makes the server listen on HTTPS, and joins it with both programs, each with a key of its own: the state
// directory of isosyncd and the configuration of incus.
func (c *topic) joined() (state, conf string) {
	c.t.Helper()
	c.server.HTTPS(c.t)
	state, conf = filepath.Join(c.dir, "joined"), filepath.Join(c.dir, "conf")
	ctx, cancel := c.context()
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, "remote", "add", "bench", "--state-dir", state)
	cmd.Env, cmd.Stdin = c.environ(), strings.NewReader(c.server.Token(c.t, "isosyncd")+"\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("isosyncd remote add: %v\n%s", err, out)
	}
	c.timed(c.dir, "env", "INCUS_CONF="+conf, "incus", "remote", "add", "bench", c.server.Token(c.t, "incus"))
	return state, conf
}

// sendfileReturned matches the end of a sendfile in the output of strace -f, whole or resumed.
var sendfileReturned = regexp.MustCompile(`(?m)sendfile(?:64)?(?:\(| resumed).* = (\d+)$`)

// sendfile looks how many bytes of an import the kernel moved by itself.
func (c *topic) sendfile(path string, size int64) {
	c.t.Helper()
	c.stamp(path)
	volume, log := c.next("import"), filepath.Join(c.dir, "strace")
	c.timed(c.dir, "strace", "-f", "-e", "trace=sendfile", "-o", log, c.program, "import", path, volume, "--remote", c.server.Addr(),
		"--pool", "default", "--project", c.server.Project(), "--quiet")
	c.made(volume, size, true)
	c.remove(volume)
	text, err := os.ReadFile(log)
	if err != nil {
		c.t.Fatal(err)
	}
	var moved int64
	calls := sendfileReturned.FindAllSubmatch(text, -1)
	for _, call := range calls {
		n, err := strconv.ParseInt(string(call[1]), 10, 64)
		if err != nil {
			c.t.Fatal(err)
		}
		moved += n
	}
	c.figure("moved by sendfile, unix socket", percent(float64(moved)/float64(size)),
		count(float64(moved))+" of "+count(float64(size))+" bytes in "+count(float64(len(calls)))+" calls, seen by strace")
}

// size is the first of two, or the second in a quick run.
func (c *topic) size(real, quick int64) int64 {
	if c.quick {
		return quick
	}
	return real
}
