package fusefs

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// holding says who can still write to a file while one descriptor of it is being closed.
type holding int

const (
	heldByNobody  holding = iota // the one that is being closed was the last
	heldByOthers                 // some process has it open for writing, maybe the same one
	heldByExiting                // the caller is being killed, or exits
	heldUnknown                  // /proc does not tell: another pid namespace, or an old kernel
)

const procDir = "/proc"

// holdersOf looks through /proc: fdinfo tells the inode of each open file (since Linux 5.14) without a request to the
// file system that has it, and a descriptor that is being closed is not there any more. tid is the calling thread.
func holdersOf(ino uint64, tid uint32) holding {
	if tid == 0 {
		return heldUnknown
	}
	self := strconv.FormatUint(uint64(tid), 10)
	if exiting(self) {
		return heldByExiting
	}
	switch holds(self, ino) {
	case heldByOthers:
		return heldByOthers
	case heldUnknown:
		return heldUnknown
	}
	return anyHolder(ino)
}

// anyHolder looks through all processes: heldByOthers, heldByNobody, or heldUnknown where there is no /proc.
func anyHolder(ino uint64) holding {
	processes, err := os.ReadDir(procDir)
	if err != nil {
		return heldUnknown
	}
	for _, p := range processes {
		if name := p.Name(); name[0] >= '1' && name[0] <= '9' && holds(name, ino) == heldByOthers {
			return heldByOthers
		}
	}
	return heldByNobody
}

// exiting reports the flag PF_EXITING of a thread. One that is not there any more is at its end, too.
func exiting(tid string) bool {
	const pfExiting = 0x4 // include/linux/sched.h
	fields, err := threadStat(tid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&pfExiting != 0
}

// threadStat reads /proc/PID/stat from its third field on, the state: what is before that is the name, which may have
// anything in it.
func threadStat(tid string) ([]string, error) {
	stat, err := os.ReadFile(filepath.Join(procDir, tid, "stat"))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 7 {
		return nil, errors.New("/proc/PID/stat is not as proc(5) says")
	}
	return fields, nil
}

// holds reports whether a process has the inode open for writing: heldByOthers if so, heldUnknown if it may not be
// looked at.
func holds(pid string, ino uint64) holding {
	dir := filepath.Join(procDir, pid, "fd")
	d, err := os.Open(dir)
	if err != nil {
		return heldUnknown
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close() // nothing was written
	if err != nil {
		return heldUnknown
	}
	answer := heldByNobody
	for _, fd := range names {
		link, err := os.Readlink(filepath.Join(dir, fd))
		if err != nil || !strings.HasPrefix(link, "/") || strings.HasPrefix(link, "/dev/") {
			continue // a pipe, a socket, a terminal, or closed meanwhile
		}
		info, err := os.ReadFile(filepath.Join(procDir, pid, "fdinfo", fd))
		switch found, writes, ok := parseFdinfo(info, ino); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || !ok:
			answer = heldUnknown
		case found && writes:
			return heldByOthers
		}
	}
	return answer
}

// parseFdinfo reads what proc(5) says of a descriptor; ok is false where the kernel does not tell the inode.
func parseFdinfo(info []byte, ino uint64) (found, writes, ok bool) {
	for line := range strings.Lines(string(info)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch value = strings.TrimSpace(value); key {
		case "flags":
			flags, err := strconv.ParseUint(value, 8, 64)
			writes = err == nil && flags&3 != 0
		case "ino":
			n, err := strconv.ParseUint(value, 10, 64)
			found, ok = n == ino, err == nil
		}
	}
	return found, writes, ok
}

// minorSignals are the signals that say nothing about what a program waits for, if it has a handler for them: the runtimes of
// languages, profilers, timers, terminals and children send them.
const minorSignals = 1<<(unix.SIGURG-1) | 1<<(unix.SIGPROF-1) | 1<<(unix.SIGVTALRM-1) | 1<<(unix.SIGALRM-1) |
	1<<(unix.SIGCHLD-1) | 1<<(unix.SIGWINCH-1) | 1<<(unix.SIGIO-1) | 1<<(unix.SIGUSR1-1) | 1<<(unix.SIGUSR2-1) |
	1<<(unix.SIGCONT-1)

// waiting reports whether a thread sleeps in the kernel where no signal ends it, as one does whose request was interrupted
// and not answered. One that does not is not there to be answered: the connection was aborted.
func waiting(tid uint32) bool {
	fields, err := threadStat(strconv.FormatUint(uint64(tid), 10))
	return err == nil && fields[0] == "D"
}

// interrupted reports whether a thread whose request the kernel interrupted is meant to stop: a signal waits for it that
// ends or stops it, or that it handles and is not a minor one. Also if /proc does not tell.
func interrupted(tid uint32) bool {
	status, err := os.ReadFile(filepath.Join(procDir, strconv.FormatUint(uint64(tid), 10), "status"))
	if err != nil {
		return true
	}
	return parseSignals(status)
}

// parseSignals is interrupted for the content of /proc/PID/status.
func parseSignals(status []byte) bool {
	masks := map[string]uint64{}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt":
			n, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return true
			}
			masks[key] = n
		}
	}
	if len(masks) != 5 {
		return true
	}
	pending := (masks["SigPnd"] | masks["ShdPnd"]) &^ masks["SigBlk"] &^ masks["SigIgn"]
	return pending&^(minorSignals&masks["SigCgt"]) != 0
}
