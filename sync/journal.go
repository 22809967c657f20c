package sync

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	gosync "sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Record is what the journal knows of one volume name. Its JSON form is the on-disk format: fields may be added, never
// given another meaning.
type Record struct {
	Volume  string    `json:"volume"`
	File    string    `json:"file,omitempty"` // of the folder; decides who keeps the name in a clash
	Present *Presence `json:"present,omitempty"`
	Intent  *Intent   `json:"intent,omitempty"`
	Failure *Failure  `json:"failure,omitempty"`

	MissingSince time.Time `json:"missing_since,omitzero"` // first full scan without the file; prune waits from here
	Consumed     bool      `json:"consumed,omitempty"`     // we removed the file ourselves
	Adopt        bool      `json:"adopt,omitempty"`        // somebody asked us to take a foreign volume over
	Removing     bool      `json:"removing,omitempty"`     // somebody asked us to delete volume and file
	Confirmed    bool      `json:"confirmed,omitempty"`    // somebody confirmed a prune that the guards held
}

// Presence is a volume that was seen good: its operation was seen to succeed, and it carries our mark.
type Presence struct {
	Digest      string    `json:"digest"`
	Incarnation string    `json:"incarnation"`
	Source      Identity  `json:"source"` // the file whose bytes it has; zero where there was none
	At          time.Time `json:"at"`
}

// IntentKind says how a volume is being made.
type IntentKind string

// The kinds of intent.
const (
	IntentImport  IntentKind = "import"  // from the folder's file
	IntentCopy    IntentKind = "copy"    // from another of our volumes, on the server
	IntentReplace IntentKind = "replace" // the old volume goes; the new bytes are in the spool
)

// Intent is written before the first request that makes a volume, and goes when the volume is marked. A volume that is
// there without our mark, while an intent of ours names it, may be torn.
type Intent struct {
	Kind        IntentKind `json:"kind"`
	File        string     `json:"file"` // goes into the mark
	Human       string     `json:"human,omitempty"`
	Source      Identity   `json:"source"`
	Size        int64      `json:"size"`             // bytes
	Digest      string     `json:"digest,omitempty"` // known at the latest when Operation is
	From        string     `json:"from,omitempty"`   // IntentCopy: the volume copied
	Operation   string     `json:"operation,omitempty"`
	Seen        bool       `json:"seen,omitempty"`        // its operation was seen to succeed
	Incarnation string     `json:"incarnation,omitempty"` // of the volume that it made; set with Seen
	At          time.Time  `json:"at"`
}

// Failure is the last one, and when to try again. A permanent one holds until the source changes.
type Failure struct {
	Code      Code      `json:"code"`
	Text      string    `json:"text"`
	Remedy    string    `json:"remedy"`
	Permanent bool      `json:"permanent,omitempty"`
	Source    Identity  `json:"source"`
	Attempts  int       `json:"attempts"`
	NotBefore time.Time `json:"not_before"`
	At        time.Time `json:"at"`
}

// Digest is what hashing a file gave. It is keyed by Identity.
type Digest struct {
	SHA256 string            `json:"sha256"`
	Others map[string]string `json:"others,omitempty"` // by algorithm, as far as lists asked for them
	Bad    string            `json:"bad,omitempty"`    // the image's embedded sum disagrees: what it says
}

var (
	bucketRecords = []byte("records")
	bucketDigests = []byte("digests")
	bucketMeta    = []byte("meta")
	keyFolder     = []byte("folder")
	keyNoCopy     = []byte("no-copy-until")
)

// journal is the durable memory. Losing it loses no volume: marks on the server say what is ours.
type journal struct {
	db *bbolt.DB

	mu      gosync.RWMutex
	records map[string]Record   // guarded by mu; by volume name
	digests map[Identity]Digest // guarded by mu
	// What is not on the disk yet: the next change of anything takes it along. guarded by mu
	lateRecords map[string]bool
	lateDigests map[Identity]bool
}

// ErrLocked says that another process uses the state directory.
var ErrLocked = errors.New("another isosyncd uses this state directory")

// openJournal opens or makes dir/journal.db. A journal that cannot be read is set aside, not deleted: moved says where.
func openJournal(dir string) (j *journal, moved string, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, "", fmt.Errorf("state directory: %w", err)
	}
	path := filepath.Join(dir, "journal.db")
	j, err = loadJournal(path, false)
	if err == nil || errors.Is(err, ErrLocked) || errors.Is(err, fs.ErrPermission) {
		return j, "", err
	}
	moved = path + ".unreadable"
	if err := os.Rename(path, moved); err != nil {
		return nil, "", fmt.Errorf("set the unreadable journal aside: %w", err)
	}
	j, err = loadJournal(path, false)
	return j, moved, err
}

func loadJournal(path string, readOnly bool) (j *journal, err error) {
	// bbolt panics on some kinds of damage, and its memory map faults where a file was cut; a damaged journal must never
	// keep the daemon down.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			j, err = nil, fmt.Errorf("journal is damaged: %v", p)
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, ReadOnly: readOnly})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j = &journal{
		db: db, records: map[string]Record{}, digests: map[Identity]Digest{},
		lateRecords: map[string]bool{}, lateDigests: map[Identity]bool{},
	}
	if !readOnly {
		err = db.Update(func(tx *bbolt.Tx) error {
			for _, b := range [][]byte{bucketRecords, bucketDigests, bucketMeta} {
				if _, err := tx.CreateBucketIfNotExists(b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err == nil {
		err = db.View(j.load)
	}
	if err == nil {
		err = db.View(func(tx *bbolt.Tx) error { return wholeFile(path, tx.Size()) })
	}
	if err != nil {
		_ = db.Close() // the first error says more
		return nil, fmt.Errorf("journal: %w", err)
	}
	return j, nil
}

// wholeFile reports a file that is shorter than what bbolt thinks it has: pages that are not loaded yet would be missing.
func wholeFile(path string, want int64) error {
	st, err := os.Stat(path)
	if err == nil && st.Size() < want {
		err = fmt.Errorf("it has %d of %d bytes", st.Size(), want)
	}
	return err
}

func (j *journal) load(tx *bbolt.Tx) error {
	if b := tx.Bucket(bucketRecords); b != nil {
		err := b.ForEach(func(k, v []byte) error {
			var r Record
			if err := json.Unmarshal(v, &r); err != nil {
				return fmt.Errorf("record %q: %w", k, err)
			}
			j.records[string(k)] = r
			return nil
		})
		if err != nil {
			return err
		}
	}
	b := tx.Bucket(bucketDigests)
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		id, ok := decodeIdentity(k)
		var d Digest
		if err := json.Unmarshal(v, &d); err != nil || !ok {
			return fmt.Errorf("digest %x is damaged", k)
		}
		j.digests[id] = d
		return nil
	})
}

func (j *journal) close() error { return errors.Join(j.flush(), j.db.Close()) }

// read lends the records and digests to f, which must not keep or change them.
func (j *journal) read(f func(records map[string]Record, digests map[Identity]Digest)) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	f(j.records, j.digests)
}

// record returns a copy; its pointers are shared and must not be written through.
func (j *journal) record(volume string) Record {
	j.mu.RLock()
	defer j.mu.RUnlock()
	r := j.records[volume]
	r.Volume = volume
	return r
}

// update changes one record durably: it is on disk when update returns. change gets a copy; what it points to it must
// replace, not write into. A record that ends empty is dropped.
func (j *journal) update(volume string, change func(*Record)) error {
	return j.updateAll(map[string]func(*Record){volume: change})
}

// updateAll changes several records at once: all of them are on disk when it returns, or none is changed.
func (j *journal) updateAll(changes map[string]func(*Record)) error {
	if len(changes) == 0 {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	changed := j.changed(changes)
	if err := j.commit(changed); err != nil {
		return err
	}
	j.take(changed)
	return nil
}

// later changes one record at once, and has it on the disk with the next change of anything, or flush. It is for what
// the server tells again after a crash: an fsync for each image is most of the time that a small one takes.
func (j *journal) later(volume string, change func(*Record)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.take(j.changed(map[string]func(*Record){volume: change}))
	j.lateRecords[volume] = true
}

// changed applies changes to copies.
func (j *journal) changed(changes map[string]func(*Record)) map[string]Record {
	out := make(map[string]Record, len(changes))
	for volume, change := range changes {
		r := j.records[volume]
		r.Volume = volume
		change(&r)
		out[volume] = r
	}
	return out
}

func (j *journal) take(changed map[string]Record) {
	for volume, r := range changed {
		if r.empty() {
			delete(j.records, volume)
		} else {
			j.records[volume] = r
		}
	}
}

// flush puts on the disk what later and putDigest left.
func (j *journal) flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.lateRecords)+len(j.lateDigests) == 0 {
		return nil
	}
	return j.commit(nil)
}

// commit puts records on the disk, and with them what is late; mu is held.
func (j *journal) commit(records map[string]Record) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for volume := range j.lateRecords {
			if _, newer := records[volume]; !newer {
				if err := putRecord(tx, volume, j.records[volume]); err != nil {
					return err
				}
			}
		}
		for volume, r := range records {
			if err := putRecord(tx, volume, r); err != nil {
				return err
			}
		}
		for id := range j.lateDigests {
			v, err := json.Marshal(j.digests[id])
			if err == nil {
				err = tx.Bucket(bucketDigests).Put(encodeIdentity(id), v)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	clear(j.lateRecords)
	clear(j.lateDigests)
	return nil
}

// putRecord writes a record, or drops one that says nothing.
func putRecord(tx *bbolt.Tx, volume string, r Record) error {
	r.Volume = volume
	b := tx.Bucket(bucketRecords)
	if r.empty() {
		return b.Delete([]byte(volume))
	}
	v, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return b.Put([]byte(volume), v)
}

// empty reports that a record says nothing.
func (r Record) empty() bool { return r == Record{Volume: r.Volume, File: r.File} }

func (j *journal) digest(id Identity) (Digest, bool) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	d, ok := j.digests[id]
	return d, ok
}

// putDigest remembers a digest at once, and has it on the disk as later has: what is lost is found out again.
func (j *journal) putDigest(id Identity, d Digest) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.digests[id] = d
	j.lateDigests[id] = true
}

// keepDigests forgets those of files that are not there any more. It is cheap when there are none.
func (j *journal) keepDigests(there map[Identity]bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var gone []Identity
	for id := range j.digests {
		if !there[id] {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	err := j.db.Update(func(tx *bbolt.Tx) error {
		for _, id := range gone {
			if err := tx.Bucket(bucketDigests).Delete(encodeIdentity(id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("journal digests: %w", err)
	}
	for _, id := range gone {
		delete(j.digests, id)
		delete(j.lateDigests, id)
	}
	return nil
}

// folder returns the identity of the folder that the records speak of; zero = none was set.
func (j *journal) folder() (id folderID, err error) {
	err = j.getMeta(keyFolder, &id)
	return id, err
}

func (j *journal) setFolder(id folderID) error { return j.putMeta(keyFolder, id) }

// noCopyUntil is when to try a server-side copy again after one failed on this pool; zero = copies work.
func (j *journal) noCopyUntil() (t time.Time, err error) {
	err = j.getMeta(keyNoCopy, &t)
	return t, err
}

func (j *journal) setNoCopyUntil(t time.Time) error { return j.putMeta(keyNoCopy, t) }

func (j *journal) getMeta(key []byte, into any) error {
	return j.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMeta)
		if b == nil {
			return nil
		}
		if v := b.Get(key); v != nil {
			return json.Unmarshal(v, into)
		}
		return nil
	})
}

func (j *journal) putMeta(key []byte, value any) error {
	err := j.db.Update(func(tx *bbolt.Tx) error {
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(key, v)
	})
	if err != nil {
		return fmt.Errorf("journal %s: %w", key, err)
	}
	return nil
}

const identitySize = 5 * 8

func encodeIdentity(id Identity) []byte {
	b := make([]byte, 0, identitySize)
	for _, v := range []uint64{id.Dev, id.Ino, uint64(id.Size), uint64(id.MTime), uint64(id.CTime)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func decodeIdentity(b []byte) (id Identity, ok bool) {
	if len(b) != identitySize {
		return id, false
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return Identity{Dev: at(0), Ino: at(1), Size: int64(at(2)), MTime: int64(at(3)), CTime: int64(at(4))}, true
}
