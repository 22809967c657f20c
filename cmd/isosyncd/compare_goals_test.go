//go:build bench

package main

// goal is what is asked of a number.
type goal struct {
	id, words string
	limit     limit
	unit      unit
	why       string // it is missed, where that is known; shown only then
}

// goalOf finds a goal by its number.
func goalOf(id string) goal {
	for _, g := range []goal{
		{
			"1a", "`isosyncd import` of 1 GiB, unix socket, against `incus storage volume import`", atMost(0.75), times,
			"the server decides: it reads its socket in pieces of 32 KiB and copies the image into the pool afterwards; package lxd alone, see below, is the least there is, and the digest needs most of a core beside it",
		},
		{
			"1b", "`isosyncd import` of 1 GiB over HTTPS, against `incus storage volume import` on the unix socket", atMost(1), times,
			"both ends of TLS and the digest share the cores of one machine; see the client of Incus over HTTPS below",
		},
		{
			"2a", "1 GiB dropped: from the end of `cp` to the marked volume, against the server's own second phase", atMost(1.2), times,
			"a `cp` within the page cache ends before the server has read half of the image from its socket; what is left of that comes on top of the second phase",
		},
		{"2b", "the same without early upload, against a loop of `inotifywait` and `incus storage volume import`", atMost(0.8), times, ""},
		{"2c", "1 MiB dropped: from the end of `cp` to the marked volume", atMost(0.3), seconds, ""},
		{
			"3a", "500 images dropped at once: volumes a second, against a loop of `incus storage volume import`", atLeast(3), times,
			"the server needs a database transaction for the volume, another for the mark, and an answer about the name; package lxd alone, see below, is the most that it does without any of that",
		},
		{"3b", "the first of the 500 is marked, from the start of `cp`", atMost(2), seconds, ""},
		{"4a", "speed of reading 1 GiB through the mount, against the file itself", atLeast(0.9), times, ""},
		{
			"4b", "`cp` of 1 GiB into the mount, against `cp` to the disk and `incus storage volume import`", atMost(0.85), times,
			"the bytes of `cp` go through the daemon into the draft, and `close` waits for the server's second phase and the mark",
		},
		{
			"5", "`ls -l` of 10,000 volumes in the mount, against one listing by the server (here the embedded store)", atMost(0.02), times,
			"the embedded store lists from memory; `ls -l` of the same files on the disk, see below, takes as long. A real Incus takes a millisecond for each volume",
		},
		{"6a", "restart with 10,000 images and volumes: bytes hashed", atMost(0), count, ""},
		{"6b", "the same: bytes sent and copies made", atMost(0), count, ""},
		{"7a", "peak memory, one image of 4 GiB", atMost(64 << 20), mebibytes, ""},
		{"7b", "peak memory, 10,000 images", atMost(200 << 20), mebibytes, ""},
		{"7c", "processor time in an idle minute, of one core, after the 4 GiB", atMost(0.001), percent, ""},
		{
			"7d", "the same with 10,000 images", atMost(0.001), percent,
			"each minute the folder is looked at and the pool is listed in full: the answer alone is megabytes of JSON",
		},
		{"7e", "goroutines and descriptors more than before, after the 4 GiB and the minute", atMost(0), count, ""},
		{"7f", "the same with 10,000 images", atMost(0), count, ""},
	} {
		if g.id == id {
			return g
		}
	}
	panic("there is no goal " + id)
}
