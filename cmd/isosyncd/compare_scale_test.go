//go:build bench

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"isosyncd/control"
	"isosyncd/lxd/lxdtest"
)

// entries are goals 5, 6a, 6b, 7b, 7d and 7f: a folder of 10,000 images, each of them a volume of the embedded store, which is
// served by this process, so that the daemon's memory is its own.
func (c *topic) entries() {
	n := int(c.size(10_000, 200))
	server := lxdtest.Store(c.t)
	c.server, c.pool = server, server.Pool(c.t)
	c.group = fmt.Sprintf("%d images in the folder, and as many volumes in the embedded store", n)
	dir := filepath.Join(c.dir, c.next("mnt"))
	if err := os.Mkdir(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
	d := c.reserve()
	makeImages(c.t, d.folder, n, 40<<10)
	c.settle()
	began := time.Now()
	c.start(d, server, "--mount", dir)
	c.unmounted(dir)
	c.until("all images to be volumes", func() bool { return d.ready() && c.metric(d, "imports_total") == float64(n) })
	c.figure("the first import of all", seconds(time.Since(began).Seconds()), "")
	c.listed(n, marked)
	peak := d.peak(c.t)
	c.figure("peak memory of the daemon that imported them", mebibytes(peak), "VmHWM")

	c.listing(dir, d.folder, n)
	d.stop()
	idle := c.restarts(d, dir, n)
	peak = max(peak, idle.peak)
	c.judge("7b", sample{peak}.spread())
	c.judge("7d", sample{idle.cpu}.spread())
	c.judge("7f", sample{idle.grown}.spread())
	c.realListing(n)
}

// listing compares ls -l of the mount with one listing by the server.
func (c *topic) listing(dir, folder string, n int) {
	c.t.Helper()
	group := c.group
	c.until("all volumes to be in the mount", func() bool {
		list, err := os.ReadDir(dir)
		return err == nil && len(list) == n+1 // and .isosyncd
	})
	ls := func(name, in string) side {
		return side{name, func() (time.Duration, error) {
			return c.timed(in, "bash", "-c", `[ "$(ls -l | grep -c '\.iso$')" = "$1" ]`, "ls", count(float64(n))), nil
		}}
	}
	s := c.compare("Listing "+count(float64(n))+" volumes", c.rounds,
		ls("`ls -l` of the mount", dir),
		c.oneListing(n),
		ls("`ls -l` of the folder, on the disk", folder))
	c.judge("5", ratio(s[0], s[1]))
	c.figures = append(c.figures, figure{c.group, "`ls -l` / listing", ratio(s[0], s[1]).text(times), ""})
	c.group = group
}

// oneListing asks the embedded store for all n volumes.
func (c *topic) oneListing(n int) side {
	return side{"one listing by the embedded store", func() (time.Duration, error) {
		ctx, cancel := c.context()
		defer cancel()
		began := time.Now()
		list, err := c.pool.Volumes(ctx)
		took := time.Since(began)
		if err != nil || len(list) != n {
			c.t.Fatalf("%d volumes, want %d: %v", len(list), n, err)
		}
		return took, nil
	}}
}

// restarts starts the daemon again and again: it must know all of it without reading or sending a byte. It stays idle
// for a while the last time.
func (c *topic) restarts(d *watched, dir string, n int) idleness {
	c.t.Helper()
	var hashed, sent sample
	var idle idleness
	group, round := c.group, 0
	c.compare("Restart with "+count(float64(n))+" images", c.rounds,
		side{"from the start of the program until it is ready", func() (time.Duration, error) {
			round++
			began := time.Now()
			c.start(d, c.server, "--mount", dir)
			for !d.ready() {
				if d.ended() {
					c.t.Fatalf("the daemon ended with: %v", d.err)
				}
				time.Sleep(time.Millisecond)
			}
			took := time.Since(began)
			c.settled(d, n)
			hashed = append(hashed, c.metric(d, `bytes_total{phase="hash"}`))
			sent = append(sent, c.metric(d, `bytes_total{phase="upload"}`)+c.metric(d, "copies_total"))
			if round == c.rounds {
				before := c.inside(d)
				idle = c.idle(d, before)
			}
			idle.peak = max(idle.peak, d.peak(c.t))
			d.stop()
			return took, nil
		}},
		c.oneListing(n))
	c.judge("6a", sample{hashed.spread().max}.spread())
	c.judge("6b", sample{sent.spread().max}.spread())
	c.group = group
	c.figure("peak memory of the restarted daemons", mebibytes(idle.peak), "VmHWM")
	c.idleFigures(idle)
	return idle
}

// settled waits until the daemon looked at folder and pool once more, and found nothing left to do.
func (c *topic) settled(d *watched, n int) {
	c.t.Helper()
	client := control.Dial(d.control)
	defer client.Close()
	ctx, cancel := c.context()
	defer cancel()
	scans, lists := c.metric(d, "folder_scans_total"), c.metric(d, "pool_lists_total")
	if err := client.Rescan(ctx); err != nil {
		c.t.Fatal(err)
	}
	c.until("all images to be present", func() bool {
		return c.metric(d, `files{state="present"}`) == float64(n) && c.metric(d, "folder_scans_total") > scans &&
			c.metric(d, "pool_lists_total") > lists
	})
}

// realListing asks a real Incus for as many volumes, to have the number that users of one meet. Their rows are put into
// its database: there are no bytes, and a listing does not look for them.
func (c *topic) realListing(n int) {
	server := c.bench.server.In(c.t, c.next("rows"), nil)
	project := "(SELECT id FROM projects WHERE name = '" + server.Project() + "')"
	sql := func(statement string) {
		c.timed(c.dir, "env", "INCUS_DIR="+server.Dir(), "incus", "admin", "sql", "global", statement)
	}
	sql(fmt.Sprintf(`INSERT INTO storage_volumes (name, storage_pool_id, node_id, type, description, project_id, content_type, creation_date)
  WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i < %d)
  SELECT printf('image-%%05d', i), (SELECT id FROM storage_pools WHERE name = 'default'), 1, 2, '', %s, 2, '2026-01-01T00:00:00Z' FROM n`, n-1, project))
	sql("INSERT INTO storage_volumes_config (storage_volume_id, key, value) SELECT id, 'size', '40960' FROM storage_volumes WHERE project_id = " + project)
	ctx, cancel := c.context()
	defer cancel()
	pool := server.Pool(c.t)
	began := time.Now()
	list, err := pool.Volumes(ctx)
	took := time.Since(began)
	sql("DELETE FROM storage_volumes WHERE project_id = " + project)
	if err != nil || len(list) != n || list[0].Size != 40960 {
		c.t.Fatalf("a real listing: %d volumes, want %d: %v", len(list), n, err)
	}
	c.figures = append(c.figures, figure{c.group, "one listing of as many by a real Incus", seconds(took.Seconds()), "once; for information"})
}

// long are goals 7a, 7c and 7e: one image of 4 GiB, and a minute of nothing.
func (c *topic) long() {
	size := c.size(4<<30, 64<<20)
	c.group = "One image of " + mebibytes(float64(size)) + " through the folder"
	d := c.daemon(c.server)
	before := c.inside(d)
	volume := c.next("long")
	began := time.Now()
	makeImage(c.t, filepath.Join(d.folder, volume+".iso"), size)
	c.figure("writing the file", seconds(time.Since(began).Seconds()), "")
	took := c.await(time.Now(), volume, marked)
	c.made(volume, size, true)
	c.figure("from the end of writing until the volume is marked", seconds(took.Seconds()), "once")
	peak := d.peak(c.t)
	idle := c.idle(d, before)
	c.figure("peak memory after the import", mebibytes(peak), "VmHWM")
	c.idleFigures(idle)
	c.judge("7a", sample{max(peak, idle.peak)}.spread())
	c.judge("7c", sample{idle.cpu}.spread())
	c.judge("7e", sample{idle.grown}.spread())
	c.end(d)
	c.remove(volume)
}

// until asks 20 times a second.
func (c *topic) until(what string, f func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited 5m for: %s", what)
		}
	}
}
