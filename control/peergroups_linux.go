package control

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is the kernel's NGROUPS_MAX (limits.h).
const maxGroups = 65536

// peerGroups gives the supplementary groups of a peer (SO_PEERGROUPS, Linux 4.13); none if the kernel does not tell,
// which can only keep somebody out.
func peerGroups(fd int) []uint32 {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:min(int(size/4), len(groups))]
		case errno == unix.ERANGE && len(groups) < maxGroups:
			groups = make([]uint32, min(maxGroups, 4*len(groups))) // size says how many, but may have grown since
		default:
			return nil
		}
	}
}
