//go:build bench

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"isosyncd/lxd/lxdtest"
)

// mountedDaemon starts a daemon with a mount. end ends both.
func (c *topic) mountedDaemon(server *lxdtest.Server, args ...string) (d *watched, dir string) {
	c.t.Helper()
	dir = filepath.Join(c.dir, c.next("mnt"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	c.unmounted(dir)
	return c.daemon(server, append([]string{"--mount", dir}, args...)...), dir
}

// unmounted leaves nothing of a mount behind, whatever became of its daemon.
func (c *topic) unmounted(dir string) {
	c.t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// mounts are goals 4a and 4b: reading from the mount, and writing to it.
func (c *topic) mounts() {
	size := c.size(1<<30, 16<<20)
	path := c.image(size)
	c.written(path, size)

	volume := c.next("read")
	d, dir := c.mountedDaemon(c.server)
	c.stamp(path)
	raw := filepath.Join(d.folder, volume+".iso")
	c.timed(c.dir, "cp", path, raw)
	c.await(time.Now(), volume, marked)
	shown := filepath.Join(dir, volume+".iso")
	eventually(c.t, "the volume to be shown", func() bool { _, err := os.Stat(shown); return err == nil })
	asked := c.asks(d, shown)
	reading := func(name, file string) side {
		return side{name, func() (time.Duration, error) {
			return c.timed(c.dir, "dd", "if="+file, "of=/dev/null", "bs=1M", "status=none"), nil
		}}
	}
	s := c.compare("Reading "+mebibytes(float64(size))+" in order, from the page cache", 3*c.rounds, // they are short
		reading("the file itself", raw), reading("through the mount", shown))
	for i, name := range []string{"the file itself", "through the mount"} {
		c.figure(name+": a second", s[i].rates(float64(size)).spread().text(mebibytes), "")
	}
	how := "passthrough: the kernel read the file without the daemon"
	if asked >= int(size>>20) { // a request has 1 MiB at most
		how = "no passthrough: the daemon answered each read"
		c.relax("4a", atLeast(0.6))
	}
	c.figure("reads by the daemon while the image was read for the first time", count(float64(asked)), how)
	c.judge("4a", ratio(s[0], s[1]))
	c.end(d)
	c.remove(volume)
}

// written compares cp into the mount, which returns when the volume is marked, with cp to the disk and then an import.
func (c *topic) written(path string, size int64) {
	s := c.compare("Writing "+mebibytes(float64(size))+" until the volume is there", c.rounds,
		side{"`cp` into the mount", func() (time.Duration, error) {
			c.stamp(path)
			volume := c.next("cp")
			d, dir := c.mountedDaemon(c.server)
			took := c.timed(c.dir, "cp", path, filepath.Join(dir, volume+".iso"))
			c.made(volume, size, true)
			c.end(d)
			c.remove(volume)
			return took, nil
		}},
		side{"`cp` to the disk, then `incus storage volume import`", func() (time.Duration, error) {
			c.stamp(path)
			volume := c.next("cp")
			disk := filepath.Join(c.dir, volume+".iso")
			line := []string{"-c", `cp "$1" "$2" && shift 2 && exec incus "$@"`, "cp", path, disk}
			took, err := c.tried(patience, c.dir, "bash", append(line, c.incus("", disk, volume)...)...)
			c.made(volume, size, false)
			c.remove(volume)
			if err := os.Remove(disk); err != nil {
				c.t.Error(err)
			}
			return took, err
		}})
	c.judge("4b", ratio(s[0], s[1]))
}

// asks counts how often the kernel asks the daemon while an image is read, which was not read before: each of its requests
// is a read of the daemon's.
func (c *topic) asks(d *watched, shown string) int {
	c.t.Helper()
	reads := func() int {
		n, err := strconv.Atoi(field(c.t, d.proc("io"), "syscr"))
		if err != nil {
			c.t.Fatal(err)
		}
		return n
	}
	before := reads()
	c.timed(c.dir, "dd", "if="+shown, "of=/dev/null", "bs=1M", "status=none")
	return reads() - before
}
