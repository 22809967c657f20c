package lxd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// Token is an invitation to a server, made there by "config trust add" or "auth identity create". It works once.
type Token struct {
	ClientName  string    `json:"client_name"`
	Fingerprint string    `json:"fingerprint"` // of the server's certificate: SHA-256, hex
	Addresses   []string  `json:"addresses"`   // host:port, best first
	ExpiresAt   time.Time `json:"expires_at"`  // zero = never
	Type        string    `json:"type"`        // LXD's identity type; "" = a plain trust token

	raw string
}

// String hides the secret.
func (t Token) String() string {
	return fmt.Sprintf("token for %s at %s", message(t.ClientName), message(strings.Join(t.Addresses, ", ")))
}

// GoString hides the secret.
func (t Token) GoString() string { return "lxd.Token(" + t.String() + ")" }

// ParseToken reads a token of LXD or Incus: base64 of JSON (SERVER-API 7). No error repeats any of it.
func ParseToken(s string) (Token, error) {
	s = strings.Join(strings.Fields(s), "") // terminals break long lines
	text, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		if text, err = base64.RawStdEncoding.DecodeString(s); err != nil {
			return Token{}, errors.New("join token: it is not base64; copy it whole, as the server printed it")
		}
	}
	var w struct {
		Token
		Secret string `json:"secret"`
	}
	if json.Unmarshal(text, &w) != nil {
		return Token{}, errors.New("join token: it is not a token of LXD or Incus; copy it whole, as the server printed it")
	}
	var missing []string
	for name, lacks := range map[string]bool{
		"client_name": w.ClientName == "", "addresses": len(w.Addresses) == 0, "secret": w.Secret == "", "fingerprint": w.Fingerprint == "",
	} {
		if lacks {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return Token{}, fmt.Errorf("join token: it lacks %s; a token to join a cluster does not work here", strings.Join(missing, ", "))
	}
	t := w.Token
	if t.Fingerprint, err = normalFingerprint(t.Fingerprint); err != nil {
		return Token{}, errors.New("join token: its fingerprint is not that of a certificate")
	}
	t.raw = s
	return t, nil
}

// Join makes a server trust our client certificate, by a token. t needs the certificate and key; t.Addr, if given, is
// tried instead of the token's addresses. The result is t with the address that worked and the server's certificate
// pinned by its fingerprint. It is no error if the server trusts the certificate already.
func Join(ctx context.Context, t Target, token string) (Target, error) {
	tok, err := ParseToken(token)
	if err != nil {
		return t, err
	}
	if !tok.ExpiresAt.IsZero() && tok.ExpiresAt.Before(time.Now()) {
		return t, fmt.Errorf("join %s: the token expired at %s; make a new one", message(tok.Addresses[0]), tok.ExpiresAt.Format(time.RFC3339))
	}
	pair, err := t.clientPair()
	if err != nil {
		return t, err
	}
	if pair == nil {
		return t, errors.New("join: a client certificate and key are needed")
	}
	addresses := []string{t.Addr}
	if t.Addr == "" {
		addresses = nil
		for _, a := range tok.Addresses {
			addresses = append(addresses, "https://"+a)
		}
	}
	var failures []error
	for _, addr := range addresses {
		t.Addr, t.Fingerprint = addr, tok.Fingerprint
		t.ServerCertFile, t.ServerCertPEM, t.Bearer = "", nil, ""
		joined, err := joinAt(ctx, t, tok)
		if err == nil {
			return joined, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil || !errors.Is(err, ErrAway) {
			break // it answered: the other addresses are the same server
		}
	}
	return t, errors.Join(failures...)
}

// joinAt sends the token to one address.
func joinAt(ctx context.Context, t Target, tok Token) (Target, error) {
	if socket, _, err := t.endpoint(); err != nil || socket != "" {
		return t, errors.Join(err, errors.New("join: a token is for https only; whoever may use the unix socket is trusted already"))
	}
	c, err := open(t)
	if err != nil {
		return t, err
	}
	defer c.Close()
	t.Addr = c.server.Addr
	h, err := c.greet(ctx)
	if err != nil || h.Auth == "trusted" {
		return t, err
	}
	_, err = c.do(ctx, joinRequest(c, tok), nil)
	var e *Error
	if errors.As(err, &e) {
		// The server's words could repeat what it was sent.
		e.Message = strings.ReplaceAll(e.Message, tok.raw, "…")
	}
	if err != nil && (e == nil || e.Status != http.StatusConflict) {
		return t, err
	}
	if h, err = c.greet(ctx); err != nil {
		return t, err
	}
	if h.Auth != "trusted" {
		return t, &failure{ErrUntrusted, fmt.Sprintf("%s took the token, but does not trust this client yet", t.Addr)}
	}
	return t, nil
}

// joinRequest chooses among the ways in. A token with a type is one of LXD's identities; any other is a certificate's.
// A server that does not list explicit_trust_token is either Incus, which reads trust_token, or an old LXD, which
// reads password; each takes no notice of the other.
func joinRequest(c *Client, tok Token) request {
	r := request{op: "join " + c.server.Addr, method: http.MethodPost, timeout: shortTimeout}
	switch {
	case tok.Type != "":
		r.path = "/1.0/auth/identities/tls"
		r.body = map[string]string{"trust_token": tok.raw}
	case c.server.Extensions["explicit_trust_token"]:
		r.path = "/1.0/certificates"
		r.body = map[string]string{"type": "client", "name": tok.ClientName, "trust_token": tok.raw}
	default:
		r.path = "/1.0/certificates"
		r.body = map[string]string{"type": "client", "name": tok.ClientName, "trust_token": tok.raw, "password": tok.raw}
	}
	return r
}

// NewClientKey makes a client certificate: a P-384 key and a self-signed certificate for ten years, like those of the
// official clients. Neither file may exist: a key that some server trusts is not to be lost. The key has mode 0600.
func NewClientKey(certPath, keyPath string) error {
	certPEM, keyPEM, err := newClientPair(time.Now())
	if err != nil {
		return fmt.Errorf("make a client certificate: %w", err)
	}
	if _, err := os.Lstat(certPath); err == nil {
		return fmt.Errorf("make a client certificate: %s: %w", certPath, fs.ErrExist)
	}
	if err := writeNew(keyPath, keyPEM, 0o600); err != nil {
		return fmt.Errorf("make a client certificate: %w", err)
	}
	if err := writeNew(certPath, certPEM, 0o644); err != nil {
		_ = os.Remove(keyPath) // useless alone, and nobody knows it yet
		return fmt.Errorf("make a client certificate: %w", err)
	}
	return nil
}

func newClientPair(now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	template := x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"isosyncd"}, CommonName: "isosyncd@" + host},
		NotBefore:             now.Add(-time.Hour), // for a server whose clock is slow
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// writeNew writes a file that may not exist yet, down to the disk; it leaves none behind if it cannot.
func writeNew(path string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}
