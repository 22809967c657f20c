package fusefs

import (
	"context"
	"io"
	"os"

	"isosyncd/lxd"
	isosync "isosyncd/sync"
)

// Heart is what the mount needs of a Syncer.
type Heart interface {
	// Snapshot never blocks and is never nil.
	Snapshot() *isosync.Snapshot
	// NewDraft makes a hidden file in the folder, open for reading and writing. name is what Submit will call it, as far
	// as is known; "" = it is not.
	NewDraft(name string) (*os.File, error)
	// Submit takes the draft over, whatever happens, and puts it into the folder as name. The error is a
	// *isosync.Problem or ctx's.
	Submit(ctx context.Context, draft *os.File, name string, wait isosync.Wait) error
	// Discard removes and closes a draft.
	Discard(draft *os.File)
	// Remove deletes a volume of ours and the folder's file for it.
	Remove(ctx context.Context, volume string) error
	// Rename makes volume to from volume from, and removes from.
	Rename(ctx context.Context, from, to string) error
	// Open gives the local file that holds exactly the bytes of the volume, or an error that is fs.ErrNotExist.
	Open(volume string) (*os.File, error)
}

var _ Heart = (*isosync.Syncer)(nil)

// Opener gives local files that hold the bytes of volumes, as the embedded store can. The error is fs.ErrNotExist where
// it has none. The file may be longer than the volume, never shorter.
type Opener interface {
	Open(volume string) (*os.File, error)
}

var _ Opener = Heart(nil)

// Exporter gives the bytes of a volume back from the server, and says how many there are. It fails at once, with
// lxd.ErrNotRead or errors.ErrUnsupported, where the server has no way to.
type Exporter interface {
	Export(ctx context.Context, volume string) (io.ReadCloser, int64, error)
}

var _ Exporter = (*lxd.Pool)(nil)
