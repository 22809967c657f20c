package lxd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Is maps the status to the sentinels ErrNotFound (404) and ErrDenied (401, 403).
func (e *Error) Is(target error) bool {
	if e.alien {
		return false
	}
	switch target {
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrDenied:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	}
	return false
}

// IsPermanent reports that asking again the same way cannot help: the server refused for good (4xx but 408, 409, 423,
// 425 and 429), or is not the one we may talk to, or does not know ISO volumes. All else is worth another try later,
// also ErrInUse, whatever status the server gave it, and a page that some proxy made instead of the server.
func IsPermanent(err error) bool {
	switch {
	case err == nil, errors.Is(err, ErrInUse), errors.Is(err, ErrAway), errors.Is(err, ErrSource), errors.Is(err, ErrUnknown):
		return false
	case errors.Is(err, ErrNoISO), errors.Is(err, ErrIdentity), errors.Is(err, ErrUntrusted), errors.Is(err, ErrNotRead):
		return true
	}
	var e *Error
	if !errors.As(err, &e) || e.alien || e.Status < 400 || e.Status > 499 {
		return false
	}
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return true
}

// failure is what is wrong, and is one of the sentinels without repeating its text.
type failure struct {
	kind error // the sentinel
	text string
}

func (f *failure) Error() string        { return f.text }
func (f *failure) Is(target error) bool { return target == f.kind }

// maxMessage bounds the server's words in an Error.
const maxMessage = 1 << 10

// message makes the server's words fit for a person's terminal: one line, no control characters, at most 1 KiB.
func message(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(s)
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage-len("…")], "") + "…"
	}
	return s
}

// maxRetryAfter bounds what a server can make us wait.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads the header of that name, in seconds or as a date (RFC 9110 10.2.3); 0 = none, or in the past.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	if v == "" {
		return 0
	}
	var d time.Duration
	if n, err := strconv.ParseUint(v, 10, 63); err == nil {
		d = time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}

// transportError names what went wrong below HTTP. A cancelled caller gets its own reason; everything else means that
// the server is away, but for a peer that is not the one we may talk to.
func transportError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	if errors.Is(err, ErrIdentity) || errors.Is(err, ErrUntrusted) {
		return fmt.Errorf("%s: %w", op, err)
	}
	if refusesClient(err) {
		return fmt.Errorf("%s: %w: it refused our certificate (%w)", op, ErrUntrusted, err)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("it closed the connection before it answered (%w)", err)
	}
	return fmt.Errorf("%s: %w: %w", op, ErrAway, err)
}

// refusesClient reports a TLS alert by which a server turns a client certificate down (RFC 8446 6.2). crypto/tls wraps
// its alerts in a "remote error"; their type, a uint8, it keeps to itself.
func refusesClient(err error) bool {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" || remote.Err == nil {
		return false
	}
	alert := reflect.ValueOf(remote.Err)
	return alert.Kind() == reflect.Uint8 && slices.Contains([]uint64{
		42, 43, 44, 45, 46, // bad, unsupported, revoked, expired, unknown certificate
		48, 49, 116, // unknown authority, access denied, certificate required
	}, alert.Uint())
}
