package fusefs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	isosync "isosyncd/sync"
)

const (
	cacheExt   = ".iso"
	partialExt = ".part"
	// exportWait is how long open waits for the server to begin, so that a refusal is open's answer and not read's.
	exportWait = 2 * time.Second
)

// cache keeps what the server gave back of volumes, in files of one directory, least recently used out first. It never
// has more than most bytes: what does not fit is refused before it is fetched.
type cache struct {
	dir    string
	most   int64
	source Exporter
	log    *slog.Logger
	work   *sync.WaitGroup
	until  func(context.Context) (context.Context, context.CancelFunc)

	mu    sync.Mutex
	files map[string]*fetch // guarded by mu: by key
}

// fetch is one file of the cache, whole or on its way. A nil fetch is complete: the content was local.
type fetch struct {
	cache  *cache
	key    string
	part   string   // path of the file until it is whole
	file   *os.File // open while refs > 0; set before ready is closed
	size   int64
	refs   int       // guarded by cache.mu
	used   time.Time // guarded by cache.mu
	cancel context.CancelFunc
	begun  chan struct{} // closed when the server began to send, or refused

	mu   sync.Mutex
	have int64         // guarded by mu: bytes from the start
	err  error         // guarded by mu: why there will be no more
	more chan struct{} // guarded by mu: closed when have or err changes
}

// openCache makes the directory and takes over what a former run left whole.
func openCache(dir string, most int64, source Exporter, log *slog.Logger) (*cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	c := &cache{dir: dir, most: most, source: source, log: log, files: map[string]*fetch{}}
	for _, e := range entries {
		key, whole := strings.CutSuffix(e.Name(), cacheExt)
		info, err := e.Info()
		switch {
		case strings.HasSuffix(e.Name(), partialExt):
			err = os.Remove(filepath.Join(dir, e.Name()))
		case whole && err == nil && info.Mode().IsRegular():
			c.files[key] = &fetch{cache: c, key: key, size: info.Size(), have: info.Size(), used: info.ModTime(), begun: closed()}
		}
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c, c.makeRoom(0)
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// cacheKey names the bytes of one incarnation of a volume.
func cacheKey(v *isosync.VolumeStatus) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %d %q", v.Name, v.Incarnation(), v.Size, v.Digest))
	return hex.EncodeToString(sum[:20])
}

// get gives the file of a volume, which may still be coming. The caller releases it.
func (c *cache) get(ctx context.Context, v *isosync.VolumeStatus) (*fetch, error) {
	f, err := c.open(v)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(exportWait)
	defer wait.Stop()
	select {
	case <-f.begun:
		f.mu.Lock()
		err = f.err
		f.mu.Unlock()
	case <-wait.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

func (c *cache) open(v *isosync.VolumeStatus) (*fetch, error) {
	key := cacheKey(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.files[key]
	switch {
	case f != nil && f.refs > 0:
	case f != nil:
		file, err := os.Open(c.path(key))
		if err != nil {
			delete(c.files, key)
			return nil, fmt.Errorf("cache: %w", err)
		}
		f.file = file
	default:
		if err := c.makeRoom(max(0, v.Size)); err != nil {
			return nil, err
		}
		file, err := os.CreateTemp(c.dir, key+"-*"+partialExt)
		if err != nil {
			return nil, fmt.Errorf("cache: %w", err)
		}
		f = &fetch{
			cache: c, key: key, part: file.Name(), size: max(0, v.Size), file: file,
			begun: make(chan struct{}), more: make(chan struct{}),
		}
		c.files[key] = f
		ctx, cancel := c.until(context.Background())
		f.cancel = cancel
		name, digest := v.Name, v.Digest
		c.work.Go(func() { f.run(ctx, name, digest) })
	}
	f.refs++
	f.used = time.Now()
	return f, nil
}

func (c *cache) path(key string) string { return filepath.Join(c.dir, key+cacheExt) }

// makeRoom removes what was not used for longest until size more bytes fit; mu is held. It is ENOSPC if what is open
// leaves too little.
func (c *cache) makeRoom(size int64) error {
	var idle []*fetch
	total := size
	for _, f := range c.files {
		total += f.size
		if f.refs == 0 {
			idle = append(idle, f)
		}
	}
	slices.SortFunc(idle, func(a, b *fetch) int { return a.used.Compare(b.used) })
	for _, f := range idle {
		if total <= c.most {
			return nil
		}
		if err := os.Remove(c.path(f.key)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cache: %w", err)
		}
		delete(c.files, f.key)
		total -= f.size
	}
	if total > c.most {
		return fmt.Errorf("cache of %d bytes is too small for what is open in it: %w", c.most, syscall.ENOSPC)
	}
	return nil
}

// complete reports whether all bytes are there.
func (f *fetch) complete() bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err == nil && f.have >= f.size && f.more == nil
}

// wait returns when the first n bytes are there.
func (f *fetch) wait(ctx context.Context, n int64) error {
	for {
		f.mu.Lock()
		have, err, more := f.have, f.err, f.more
		f.mu.Unlock()
		switch {
		case err != nil:
			return err
		case have >= n:
			return nil
		case more == nil:
			return io.ErrUnexpectedEOF
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// release gives one use back. What nobody reads any more is not fetched to its end.
func (f *fetch) release() {
	c := f.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	f.refs--
	f.used = time.Now()
	if f.refs > 0 {
		return
	}
	_ = f.file.Close() // synced if it is whole
	if !f.complete() {
		f.cancel()
		c.forget(f)
		_ = os.Remove(f.part) // else the next start does it
		return
	}
	now := time.Now()
	_ = os.Chtimes(c.path(f.key), now, now) // only the order of eviction after a restart
}

// forget makes the next open of that volume try again; mu is held.
func (c *cache) forget(f *fetch) {
	if c.files[f.key] == f {
		delete(c.files, f.key)
	}
}

// run fetches the bytes. It writes through a descriptor of its own, since readers may all leave.
func (f *fetch) run(ctx context.Context, volume, digest string) {
	defer f.cancel()
	err := f.copy(ctx, volume, digest)
	if err != nil {
		err = fmt.Errorf("read volume %s from the server: %w", quote(volume), cause(ctx, err))
		f.cache.log.Debug("a volume could not be read from the server", "volume", volume, "err", err)
		f.cache.mu.Lock()
		f.cache.forget(f)
		f.cache.mu.Unlock()
	}
	f.mu.Lock()
	if f.err = err; err == nil {
		f.have = f.size
	}
	close(f.more)
	f.more = nil
	f.mu.Unlock()
	f.begin()
}

func (f *fetch) begin() {
	select {
	case <-f.begun:
	default:
		close(f.begun)
	}
}

func (f *fetch) copy(ctx context.Context, volume, digest string) (err error) {
	body, size, err := f.cache.source.Export(ctx, volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if size != f.size {
		return fmt.Errorf("the server sends %d bytes, and %d were expected", size, f.size)
	}
	out, err := os.OpenFile(f.part, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	f.begin()
	hash := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(out, hash, f), body, f.size); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); digest != "" && got != digest {
		return fmt.Errorf("its SHA-256 is %s, and its mark says %s", got, digest)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return f.keep()
}

// Write counts what has been written to the file before it. The last byte does not count until all are verified: nobody
// reads a wrong image to its end.
func (f *fetch) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = min(f.have+int64(len(p)), f.size-1)
	close(f.more)
	f.more = make(chan struct{})
	return len(p), nil
}

// keep gives the file its final name, unless nobody wants it any more.
func (f *fetch) keep() error {
	f.cache.mu.Lock()
	defer f.cache.mu.Unlock()
	if f.cache.files[f.key] != f {
		return context.Canceled
	}
	return os.Rename(f.part, f.cache.path(f.key))
}
