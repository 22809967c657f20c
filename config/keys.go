package config

import "strings"

const envPrefix = "ISOSYNCD_"

// Key describes one setting.
type Key struct {
	Name    string
	Default string   // as it would be written in the file; "" also where the default depends on the host
	Kind    Kind     //
	Choices []string // of KindChoice
	Live    bool     // a reload takes it over; else a restart is needed
	Usage   string   // one line, for --help and the README
	Doc     string   // more than that, for the example file; "" = Usage says it all
}

// Kind is the type of a setting.
type Kind string

// The kinds.
const (
	KindText     Kind = "text"
	KindChoice   Kind = "choice"
	KindBool     Kind = "bool"
	KindNumber   Kind = "number"
	KindDuration Kind = "duration"
	KindSize     Kind = "size"
)

// Flag is the name of the setting as a flag, without the dashes.
func (k Key) Flag() string { return strings.ReplaceAll(k.Name, "_", "-") }

// Env is the name of the setting in the environment.
func (k Key) Env() string { return envPrefix + strings.ToUpper(k.Name) }

// Keys lists all settings in the order in which people read them.
func Keys() []Key {
	var keys []Key
	for _, section := range sections() {
		keys = append(keys, section.keys...)
	}
	return keys
}

// section is a part of the example file.
type section struct {
	title string
	keys  []Key
}

func sections() []section {
	return []section{
		{"What goes where", whereKeys()},
		{"When", whenKeys()},
		{"What it may do by itself", policyKeys()},
		{"The mount: the pool's ISO volumes as files", mountKeys()},
		{"What it tells", tellKeys()},
	}
}

func whereKeys() []Key {
	return []Key{
		{
			Name: "folder", Kind: KindText, Usage: "drop folder: each *.iso file in it becomes a volume",
			Doc: `The drop folder: each *.iso file in it becomes an ISO volume. An absolute path of a directory that exists.
There is no default: it must be set.`,
		},
		{
			Name: "remote", Kind: KindText, Usage: "server: unix:PATH, https://HOST, lxc:NAME, incus:NAME, store:DIR or a name of isosyncd remote add; empty = the local one",
			Doc: `Which server:
  (empty)            the local LXD or Incus, whichever is found first
  unix:PATH          the socket of a local server
  NAME               a server that "isosyncd remote add NAME" made known
  https://HOST:8443  a server that trusts the client certificate in state_dir (client.crt, client.key, server.crt)
  lxc:NAME           a remote of the lxc client of the user that runs isosyncd; incus:NAME likewise
  store:DIR          no server at all: isosyncd keeps the volumes itself, under DIR`,
		},
		{Name: "project", Kind: KindText, Usage: "project of the server; empty = default"},
		{
			Name: "pool", Kind: KindText, Usage: "storage pool; empty = the only one, or the one called default",
		},
		{Name: "target", Kind: KindText, Usage: "cluster member that holds the volumes of a local pool; empty = the one that answers"},
		{
			Name: "state_dir", Kind: KindText, Usage: "directory of journal and private copies; belongs to isosyncd alone",
			Doc: `Journal, private copies and keys, for isosyncd alone (mode 0700). Empty: what systemd gives ($STATE_DIRECTORY),
/var/lib/isosyncd for root, else ~/.local/state/isosyncd. It needs room for one image when replace is in-place.`,
		},
		{
			Name: "owner", Kind: KindText, Usage: "name in the mark of each volume; empty = host name and folder",
			Doc: `The name in the mark of each volume that isosyncd made. Only volumes with this name are ever replaced or deleted.
Empty: host name and folder. Set it to keep your volumes when one of these changes.`,
		},
		{
			Name: "control", Kind: KindText, Usage: "control socket for isosyncd status and its kin",
			Doc: `The control socket for isosyncd status and its kin. Empty: control.sock in what systemd gives ($RUNTIME_DIRECTORY),
in /run/isosyncd for root, else in $XDG_RUNTIME_DIR/isosyncd.`,
		},
	}
}

func whenKeys() []Key {
	return []Key{
		{
			Name: "settle_delay", Default: "5s", Kind: KindDuration, Usage: "how long a file is left alone before it counts as finished, where leases do not work",
			Doc: `How long a file must be still before it counts as finished. Where the file system can tell that nobody writes to it
any more (local ones can), that is asked instead. Durations need a unit: ms, s, m or h.`,
		},
		{
			Name: "scan_interval", Default: "60s", Kind: KindDuration, Usage: "time between full scans of the folder, besides those after a change",
			Doc: `Time between full scans of the folder. Changes are noticed at once on local file systems; network file systems
do not tell, and are seen by these scans.`,
		},
		{Name: "refresh_interval", Default: "60s", Kind: KindDuration, Usage: "time between full lists of the pool, besides those after a change"},
		{
			Name: "max_uploads", Default: "2", Kind: KindNumber, Usage: "images sent at a time, 1 to 16",
			Doc: `Images sent at a time, 1 to 16. The server keeps a copy of each besides the one in the pool.`,
		},
		{
			Name: "early_upload", Default: "auto", Kind: KindChoice, Choices: []string{"auto", "off"},
			Usage: "send a new image while it is still being written: auto or off",
			Doc: `Whether a new image of 32 MiB or more is sent while it is still being written, so that its volume is there soon
after its last byte. What was sent counts only if the finished file proves to be the same; else it is sent again.
Set it to off where traffic to the server costs. In a folder that everybody may write to it is always off.`,
		},
	}
}

func policyKeys() []Key {
	return []Key{
		{
			Name: "replace", Default: "staged", Kind: KindChoice, Choices: []string{"staged", "in-place", "never"},
			Usage: "how a volume gets new bytes: staged, in-place or never",
			Doc: `How a volume gets new bytes when its file changed. You are never left without the image.
  staged    import the new image beside the old one, then exchange them; needs room in the pool for both
  in-place  keep a private copy in state_dir, delete the volume, import it again
  never     leave the volume as it is, and say so`,
		},
		{
			Name: "prune", Default: "false", Kind: KindBool, Usage: "delete our volumes whose file is gone",
			Doc: `Delete a volume of ours when its file is gone. Never one in use, nothing when the folder is missing or suddenly
empty, and not more than half at a time without being told to.`,
		},
		{Name: "prune_delay", Default: "60s", Kind: KindDuration, Usage: "how long a file must be gone before prune deletes its volume"},
		{Name: "restore_deleted", Default: "false", Kind: KindBool, Usage: "import again what somebody deleted on the server"},
		{
			Name: "consume", Default: "false", Kind: KindBool, Usage: "remove a file once its volume is verified; not with prune",
			Doc: `Remove a file from the folder once its volume is there and verified. Excludes prune.`,
		},
		{
			Name: "require_checksum", Default: "false", Kind: KindBool, Usage: "import only files that a checksum list beside them names",
			Doc: `Import only files that a checksum list beside them names (NAME.iso.sha256, SHA256SUMS and so on). A list that names
a file must always match, whatever is set here.`,
		},
	}
}

func mountKeys() []Key {
	return []Key{
		{
			Name: "mount", Kind: KindText, Usage: "directory to show the volumes in; empty = none",
			Doc: `Show the ISO volumes of the pool as read-only files in this directory, and import what is copied there. Needs
FUSE, and for the systemd unit the drop-in that lets it mount: /usr/share/isosyncd/isosyncd-mount.conf.
Empty: no mount.`,
		},
		{
			Name: "mount_wait", Default: "import", Kind: KindChoice, Choices: []string{"import", "staged"},
			Usage: "what cp to the mount waits for: import or staged",
			Doc: `What cp to the mount waits for: "import" until the volume is there, so that cp fails when the import does; "staged"
only until the bytes are safe in the folder.`,
		},
		{Name: "allow_other", Default: "false", Kind: KindBool, Usage: "let other users of this host read the mount"},
		{
			Name: "cache_size", Default: "10GiB", Kind: KindSize, Usage: "disk space for images read back from the server; 0 = none",
			Doc: `Disk space in state_dir for images that are read through the mount and had to be fetched from the server. 0: none.`,
		},
	}
}

func tellKeys() []Key {
	return []Key{
		{
			Name: "status_files", Default: "problems", Kind: KindChoice, Choices: []string{"problems", "all", "off"},
			Usage: "text files beside images: problems, all or off",
			Doc: `Text files beside images: "problems" writes NAME.iso.failed or NAME.iso.waiting with what is wrong and what to do,
"all" also says what went well, "off" writes none.`,
		},
		{
			Name: "metrics_address", Kind: KindText, Usage: "host:port for Prometheus metrics; empty = only on the control socket",
			Doc: `Serve Prometheus metrics at this host:port, such as localhost:9112. Empty: only on the control socket.`,
		},
		{
			Name: "log_level", Default: "info", Kind: KindChoice, Choices: []string{"debug", "info", "warn", "error"}, Live: true,
			Usage: "least level that is logged: debug, info, warn or error",
		},
		{
			Name: "log_format", Default: "auto", Kind: KindChoice, Choices: []string{"auto", "text", "json", "journal"},
			Usage: "how it is logged: auto, text, json or journal",
			Doc:   `How it is logged: "auto" is the journal's own fields under systemd and text elsewhere.`,
		},
	}
}
