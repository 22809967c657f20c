package fusefs

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// posixCases are the cases of go-fuse's posixtest, and why some do not apply (docs/SEMANTICS.md).
var posixCases = map[string]string{
	"AppendWrite": "", "DirectIO": "", "Fallocate": "", "FallocateKeepSize": "", "FdLeak": "", "FstatDeleted": "",
	"LseekEnxioCheck": "", "LseekHoleSeeksToEOF": "", "NlinkZero": "", "ReadDirConsistency": "", "TruncateFile": "",
	"TruncateNoFile": "",

	"FcntlFlockLocksFile": oneWriter, "FcntlFlockSetLk": oneWriter, "ParallelFileOpen": oneWriter,
	"FileBasic":        "a mode that is set is taken without effect",
	"FileLarge":        "what is no ISO image is refused after 64 KiB",
	"Link":             noLinks,
	"LinkUnlinkRename": noLinks, "OpenSymlinkRace": noLinks, "SetattrSymlink": noLinks, "SymlinkReadlink": noLinks,
	"DirSeek": oneDirectory, "MkdirRmdir": oneDirectory, "OpenAt": oneDirectory, "ReadDirBasic": oneDirectory,
	"RenameOpenDir": oneDirectory, "RenameOverwriteDestExist": oneDirectory, "RenameOverwriteDestNoExist": oneDirectory,
	"Tmpfile": "a file without a name cannot become a volume", "XAttr": noXattr, "XAttrLarge": noXattr,
}

const (
	oneWriter    = "a file has one writer at a time"
	noLinks      = "a pool has no links"
	oneDirectory = "a pool has no directories"
	noXattr      = "a volume has no room for the attributes of others"
)

// TestPosix runs the conformance cases of go-fuse on files that are being written.
func TestPosix(t *testing.T) {
	for name, f := range posixtest.All {
		why, known := posixCases[name]
		if !known {
			t.Errorf("posixtest has a new case %s: does it apply?", name)
		}
		if why != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			x := mountFake(t, newFake(t), func(c *Config) { c.anyName = true })
			f(t, x.dir)
		})
	}
}
