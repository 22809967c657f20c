package lxd

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// access is finder.access on the real file system. It asks with the real user id, like the official clients.
func access(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("not a socket: %w", fs.ErrNotExist)
	}
	if err := unix.Access(path, unix.W_OK); err != nil {
		return err
	}
	return nil
}
