package lxd

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serverTLS asks for a client certificate and takes any, like both servers.
func serverTLS() *tls.Config {
	return &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}

func (f *fake) fingerprint() string {
	sum := sha256.Sum256(f.http.Certificate().Raw)
	return hex.EncodeToString(sum[:])
}

// clientKey makes a client certificate in files.
func clientKey(t *testing.T) (cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	if err := NewClientKey(cert, key); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestPins(t *testing.T) {
	f := newTLSFake(t, "lxd")
	fp := f.fingerprint()
	spread := strings.ToUpper(fp[:2] + ":" + fp[2:4] + " " + fp[4:])
	other := strings.Repeat("0", 63) + "1"
	certPEM := f.target().ServerCertPEM
	otherPEM, _, err := newClientPair(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certFile, caFile := filepath.Join(t.TempDir(), "server.crt"), filepath.Join(t.TempDir(), "ca.crt")
	for path, text := range map[string][]byte{certFile: certPEM, caFile: otherPEM} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bearer := func(claims string) string { return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s" }
	for name, c := range map[string]struct {
		target Target
		ok     bool
	}{
		"fingerprint":            {Target{Fingerprint: fp}, true},
		"as people paste it":     {Target{Fingerprint: spread}, true},
		"certificate":            {Target{ServerCertPEM: certPEM}, true},
		"certificate file":       {Target{ServerCertFile: certFile}, true},
		"both":                   {Target{ServerCertPEM: certPEM, Fingerprint: fp}, true},
		"its own authority":      {Target{CAFile: certFile}, true}, // the fake's is one, for 127.0.0.1
		"bearer":                 {Target{Bearer: bearer(`{"server_cert_fingerprint":"` + fp + `"}`)}, true},
		"another fingerprint":    {Target{Fingerprint: other}, false},
		"another certificate":    {Target{ServerCertPEM: otherPEM}, false},
		"both, one of them not":  {Target{ServerCertPEM: certPEM, Fingerprint: other}, false},
		"nothing pinned":         {Target{}, false},
		"another authority":      {Target{CAFile: caFile}, false},
		"bearer of another":      {Target{Bearer: bearer(`{"server_cert_fingerprint":"` + other + `"}`)}, false},
		"bearer that says none":  {Target{Bearer: bearer(`{}`)}, false},
		"pin stronger than a CA": {Target{CAFile: certFile, Fingerprint: other}, false},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(f.requests())
			c.target.Addr = f.addr
			client, err := Dial(testContext(t), c.target)
			if c.ok {
				if err != nil {
					t.Fatal(err)
				}
				client.Close()
				return
			}
			if !errors.Is(err, ErrIdentity) || !IsPermanent(err) || errors.Is(err, ErrAway) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), fp) {
				t.Errorf("%v does not name the server's fingerprint", err)
			}
			if c.target.Fingerprint == other && !strings.Contains(err.Error(), other) {
				t.Errorf("%v does not name the pinned fingerprint", err)
			}
			if len(f.requests()) != before {
				t.Error("something was sent")
			}
		})
	}
	got, err := FetchFingerprint(testContext(t), f.addr)
	if err != nil || got != fp {
		t.Errorf("fetched %q, %v", got, err)
	}
	if _, err := FetchFingerprint(testContext(t), "unix:/x"); err == nil {
		t.Error("a unix socket has a fingerprint")
	}
}

func TestTLSVersionsAndProtocol(t *testing.T) {
	for name, c := range map[string]struct {
		max  uint16
		want uint16
	}{"1.3": {tls.VersionTLS13, tls.VersionTLS13}, "1.2": {tls.VersionTLS12, tls.VersionTLS12}, "1.1": {tls.VersionTLS11, 0}} {
		t.Run(name, func(t *testing.T) {
			f := makeFake(t, "lxd")
			f.http.TLS = serverTLS()
			f.http.TLS.MinVersion, f.http.TLS.MaxVersion = tls.VersionTLS10, c.max
			f.http.EnableHTTP2 = true
			f.http.StartTLS()
			f.addr = f.http.URL
			var version uint16
			var proto string
			f.on("GET /1.0", func(w http.ResponseWriter, r *http.Request) {
				version, proto = r.TLS.Version, r.Proto
				f.fail(403, "no")(w, r)
			})
			_, err := Dial(testContext(t), f.target())
			if version != c.want || (c.want != 0 && proto != "HTTP/1.1") || err == nil {
				t.Errorf("it spoke TLS %#x and %s, %v", version, proto, err)
			}
		})
	}
}

func TestClientCertificateIsShown(t *testing.T) {
	f := newTLSFake(t, "lxd")
	cert, key := clientKey(t)
	var shown []*x509.Certificate
	f.on("GET /1.0", func(w http.ResponseWriter, r *http.Request) {
		shown = r.TLS.PeerCertificates
		f.fail(403, "no")(w, r)
	})
	target := f.target()
	target.CertFile, target.KeyFile = cert, key
	if _, err := Dial(testContext(t), target); !errors.Is(err, ErrDenied) {
		t.Fatal(err)
	}
	if len(shown) != 1 || shown[0].Subject.Organization[0] != "isosyncd" {
		t.Errorf("it showed %v", shown)
	}
}

// A server that turns our certificate down in the handshake does not trust us; it is not away.
func TestClientCertificateRefused(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		f := makeFake(t, "lxd")
		f.http.TLS = serverTLS()
		f.http.TLS.ClientAuth, f.http.TLS.MaxVersion = tls.RequireAndVerifyClientCert, version
		f.http.StartTLS()
		f.addr = f.http.URL
		target := f.target()
		target.CertFile, target.KeyFile = clientKey(t)
		if _, err := Dial(testContext(t), target); !errors.Is(err, ErrUntrusted) {
			t.Errorf("TLS %#x: got %v", version, err)
		}
	}
}

func TestBearer(t *testing.T) {
	const secret = "h.canary.s"
	var got string
	seen := func(f *fake) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			got = r.Header.Get("Authorization")
			f.fail(403, "no")(w, r)
		}
	}
	f := newTLSFake(t, "lxd")
	f.on("GET /1.0", seen(f))
	target := f.target()
	target.Bearer = secret
	_, err := Dial(testContext(t), target)
	if got != "Bearer "+secret || strings.Contains(err.Error(), "canary") {
		t.Errorf("sent %q, said %v", got, err)
	}
	u := newFake(t, "lxd")
	u.on("GET /1.0", seen(u))
	target = u.target()
	target.Bearer = secret
	if _, err = Dial(testContext(t), target); got != "" {
		t.Errorf("sent %q without TLS, %v", got, err)
	}
}

func TestNewClientKey(t *testing.T) {
	cert, key := clientKey(t)
	info, err := os.Stat(key)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v, %v", info.Mode(), err)
	}
	pair, err := Target{CertFile: cert, KeyFile: key}.clientPair()
	if err != nil {
		t.Fatal(err)
	}
	if k := pair.Leaf; k.PublicKeyAlgorithm != x509.ECDSA || k.NotAfter.Before(time.Now().AddDate(9, 0, 0)) {
		t.Errorf("the certificate is %v until %v", k.PublicKeyAlgorithm, k.NotAfter)
	}
	before, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := NewClientKey(cert, key); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if err := NewClientKey(filepath.Join(t.TempDir(), "no", "c"), filepath.Join(filepath.Dir(key), "k2")); err == nil {
		t.Error("no error without a directory")
	} else if _, err := os.Stat(filepath.Join(filepath.Dir(key), "k2")); err == nil {
		t.Error("half of a pair was left")
	}
	if after, _ := os.ReadFile(key); string(after) != string(before) {
		t.Error("the old key is lost")
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o440: true, 0o644: false, 0o660: false, 0o604: false} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := (Target{CertFile: cert, KeyFile: key}).clientPair(); (err == nil) != ok {
			t.Errorf("mode %#o: %v", mode, err)
		}
	}
	for name, target := range map[string]Target{"only the key": {KeyPEM: before}, "only the certificate": {CertFile: cert}, "absent": {CertFile: "/no", KeyFile: key}} {
		if _, err := target.clientPair(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Nothing that prints a target prints its secrets.
func TestTargetKeepsSecrets(t *testing.T) {
	target := Target{Addr: "https://h", Project: "p", Member: "m", KeyPEM: []byte("canary"), Bearer: "canary"}
	for _, s := range []string{fmt.Sprint(target), fmt.Sprintf("%+v %#v %v", target, target, &target), target.LogValue().String()} {
		if strings.Contains(s, "canary") || strings.Contains(s, "99 97 110") || !strings.Contains(s, "https://h project p member m") {
			t.Errorf("printed %q", s)
		}
	}
}

// invite makes a token as the servers do.
func (f *fake) invite(change ...func(map[string]any)) string {
	m := map[string]any{
		"client_name": "drop", "fingerprint": f.fingerprint(), "addresses": []string{strings.TrimPrefix(f.http.URL, "https://")},
		"secret": "canary", "expires_at": "0001-01-01T00:00:00Z",
	}
	for _, c := range change {
		c(m)
	}
	return base64.StdEncoding.EncodeToString(mustJSON(f.t, m))
}

func TestParseToken(t *testing.T) {
	f := newTLSFake(t, "lxd")
	tok, err := ParseToken(f.invite(func(m map[string]any) { m["type"] = "Client certificate (pending)" }))
	if err != nil || tok.ClientName != "drop" || tok.Fingerprint != f.fingerprint() || tok.Type == "" || len(tok.Addresses) != 1 {
		t.Errorf("got %v, %v", tok, err)
	}
	if s := fmt.Sprintf("%v %+v %#v", tok, tok, tok); strings.Contains(s, "canary") || strings.Contains(s, tok.raw) {
		t.Errorf("it prints %s", s)
	}
	whole := f.invite()
	if _, err := ParseToken(whole[:40] + "\n  " + whole[40:] + "\n"); err != nil {
		t.Errorf("wrapped by a terminal: %v", err)
	}
	bad := map[string]string{"empty": "", "not base64": "canary!", "not JSON": base64.StdEncoding.EncodeToString([]byte("canary")), "cut": whole[:len(whole)/2]}
	for _, field := range []string{"client_name", "addresses", "secret", "fingerprint"} {
		bad["without "+field] = f.invite(func(m map[string]any) { delete(m, field) })
	}
	bad["bad fingerprint"] = f.invite(func(m map[string]any) { m["fingerprint"] = "canary" })
	for name, s := range bad {
		_, err := ParseToken(s)
		if err == nil || strings.Contains(err.Error(), "canary") || (len(s) > 0 && strings.Contains(err.Error(), s)) {
			t.Errorf("%s: %v", name, err)
		}
		if field, ok := strings.CutPrefix(name, "without "); ok && !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJoin(t *testing.T) {
	for name, c := range map[string]struct {
		vendor, typ string
		ext         []string
		path        string
		fields      []string
	}{
		"Incus":            {"incus", "", nil, "/1.0/certificates", []string{"name", "trust_token", "type"}},
		"LXD":              {"lxd", "", []string{"explicit_trust_token"}, "/1.0/certificates", []string{"name", "trust_token", "type"}},
		"old LXD":          {"lxd", "", nil, "/1.0/certificates", []string{"name", "password", "type"}},
		"LXD with a type":  {"lxd", "Client certificate (pending)", []string{"explicit_trust_token"}, "/1.0/auth/identities/tls", []string{"trust_token"}},
		"joined meanwhile": {"lxd", "", []string{"explicit_trust_token"}, "/1.0/certificates", []string{"trust_token"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTLSFake(t, c.vendor)
			f.ext = append(f.ext, c.ext...)
			token := f.invite(func(m map[string]any) {
				m["addresses"] = append([]string{"127.0.0.1:1"}, m["addresses"].([]string)...) // the first does not answer
				if c.typ != "" {
					m["type"] = c.typ
				}
			})
			auth := "untrusted"
			f.on("GET /1.0", func(w http.ResponseWriter, r *http.Request) {
				hello := map[string]any{"auth": auth, "api_extensions": f.ext}
				if auth == "trusted" { // others are not told
					hello["environment"] = map[string]any{"server": c.vendor}
				}
				f.sync(hello)(w, r)
			})
			var body map[string]string
			f.on("POST "+c.path, func(w http.ResponseWriter, r *http.Request) {
				body = readJSON[map[string]string](t, r.Body)
				if len(r.TLS.PeerCertificates) != 1 {
					t.Error("no client certificate in the handshake")
				}
				auth = "trusted"
				if name == "joined meanwhile" {
					f.fail(409, "Certificate already in trust store")(w, r)
					return
				}
				f.body(201, map[string]any{"type": "sync", "metadata": map[string]any{}})(w, r)
			})
			cert, key := clientKey(t)
			got, err := Join(testContext(t), Target{CertFile: cert, KeyFile: key, Project: "p"}, token)
			if err != nil {
				t.Fatal(err)
			}
			if got.Addr != f.addr || got.Fingerprint != f.fingerprint() || got.Project != "p" || got.CertFile != cert {
				t.Errorf("got %v, fingerprint %s", got, got.Fingerprint)
			}
			for _, field := range c.fields {
				if want := map[string]string{"name": "drop", "type": "client", "trust_token": token, "password": token}[field]; body[field] != want {
					t.Errorf("sent %s=%q, want %q", field, body[field], want)
				}
			}
			// Once more is no error, and sends nothing.
			before := len(f.requests())
			if _, err := Join(testContext(t), Target{CertFile: cert, KeyFile: key}, token); err != nil || len(f.requests()) != before+1 {
				t.Errorf("again: %v, %q", err, f.requests()[before:])
			}
		})
	}
}

func TestJoinFails(t *testing.T) {
	f := newTLSFake(t, "incus")
	f.auth = "untrusted"
	cert, key := clientKey(t)
	me := Target{CertFile: cert, KeyFile: key}
	token := f.invite()
	f.on("POST /1.0/certificates", f.fail(403, "no such token: "+token))
	for name, c := range map[string]struct {
		target Target
		token  string
		is     error
	}{
		"refused":        {me, token, ErrDenied},
		"expired":        {me, f.invite(func(m map[string]any) { m["expires_at"] = "2020-01-01T00:00:00Z" }), nil},
		"no certificate": {Target{}, token, nil},
		"other server":   {me, f.invite(func(m map[string]any) { m["fingerprint"] = strings.Repeat("ab", 32) }), ErrIdentity},
		"nobody there":   {me, f.invite(func(m map[string]any) { m["addresses"] = []string{"127.0.0.1:1"} }), ErrAway},
		"unix socket":    {Target{Addr: "unix:/x", CertFile: cert, KeyFile: key}, token, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Join(testContext(t), c.target, c.token)
			if err == nil || (c.is != nil && !errors.Is(err, c.is)) {
				t.Fatalf("got %v", err)
			}
			if strings.Contains(err.Error(), c.token) || strings.Contains(err.Error(), "canary") {
				t.Errorf("it gives the token away: %v", err)
			}
		})
	}
	t.Run("still not trusted", func(t *testing.T) {
		f.on("POST /1.0/certificates", f.sync(map[string]any{}))
		if _, err := Join(testContext(t), me, token); !errors.Is(err, ErrUntrusted) {
			t.Errorf("got %v", err)
		}
	})
}

func TestServerCertificateHasToBeOne(t *testing.T) {
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("canary")})
	for name, target := range map[string]Target{
		"empty":       {ServerCertPEM: []byte("x")},
		"a key":       {ServerCertPEM: key},
		"absent":      {ServerCertFile: "/no/such/file"},
		"fingerprint": {Fingerprint: "1234"},
		"authorities": {CAFile: "/dev/null"},
	} {
		target.Addr = "https://127.0.0.1:1"
		if _, err := Dial(testContext(t), target); err == nil || errors.Is(err, ErrAway) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
