package lxd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// dialer makes the connections of one client.
type dialer struct {
	base   string // what URLs begin with
	addr   string // Target.Addr in its full form
	socket string
	host   string // with port
	config *tls.Config
}

// newDialer reads keys and pins; it sends nothing.
func newDialer(t Target) (*dialer, error) {
	socket, host, err := t.endpoint()
	if err != nil {
		return nil, err
	}
	if socket != "" {
		// The host of such a URL is never looked up; it is what the official clients send.
		return &dialer{base: "http://unix.socket", addr: "unix:" + socket, socket: socket}, nil
	}
	config, err := t.tlsConfig(host)
	if err != nil {
		return nil, fmt.Errorf("https://%s: %w", host, err)
	}
	return &dialer{base: "https://" + host, addr: "https://" + host, host: host, config: config}, nil
}

// plain dials the unix socket. There is no other unencrypted way.
func (d *dialer) plain(ctx context.Context, _, _ string) (net.Conn, error) {
	if d.socket == "" {
		return nil, errors.New("plain http is refused")
	}
	dial := net.Dialer{Timeout: dialTimeout}
	raw, err := dial.DialContext(ctx, "unix", d.socket)
	if err != nil {
		return nil, err
	}
	return newConn(raw, raw)
}

// tls dials the server and checks who it is, before a byte of HTTP is sent.
func (d *dialer) tls(ctx context.Context, _, _ string) (net.Conn, error) {
	if d.config == nil {
		return nil, errors.New("there is no TLS on a unix socket")
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var dial net.Dialer
	raw, err := dial.DialContext(ctx, "tcp", d.host)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, d.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, identityError(d.addr, err)
	}
	return newConn(conn, raw)
}

// tlsConfig decides whom to trust: the one pinned certificate, or else whom the authorities vouch for.
func (t Target) tlsConfig(host string) (*tls.Config, error) {
	pair, err := t.clientPair()
	if err != nil {
		return nil, err
	}
	if pair == nil {
		pair = new(tls.Certificate)
	}
	name, _, _ := net.SplitHostPort(host)
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		ServerName: name,
		// Always ours, whatever authorities the server lists: it knows client certificates one by one.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil },
	}
	pins, err := t.pins()
	if err != nil {
		return nil, err
	}
	if len(pins) > 0 {
		// The certificate is self-signed and names no host one would expect, so only equality counts.
		config.InsecureSkipVerify = true
		config.VerifyConnection = func(state tls.ConnectionState) error {
			return checkPins("https://"+host, pins, state.PeerCertificates)
		}
		return config, nil
	}
	if t.CAFile != "" {
		text, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("authorities: there is no certificate in %s", t.CAFile)
		}
	}
	return config, nil
}

// pins lists the fingerprints that the server's certificate must all have.
func (t Target) pins() ([]string, error) {
	var pins []string
	if t.Fingerprint != "" {
		p, err := normalFingerprint(t.Fingerprint)
		if err != nil {
			return nil, err
		}
		pins = append(pins, p)
	}
	text := t.ServerCertPEM
	if len(text) == 0 && t.ServerCertFile != "" {
		var err error
		if text, err = os.ReadFile(t.ServerCertFile); err != nil {
			return nil, fmt.Errorf("server certificate: %w", err)
		}
	}
	if len(text) > 0 {
		block, _ := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("server certificate: there is no certificate in it")
		}
		pins = append(pins, fingerprint(block.Bytes))
	}
	if len(pins) == 0 && t.CAFile == "" {
		if p := bearerPin(t.Bearer); p != "" {
			pins = append(pins, p)
		}
	}
	return pins, nil
}

// bearerPin is the certificate that a bearer token of LXD is meant for (SERVER-API 7); "" = it does not say.
func bearerPin(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var c struct {
		Fingerprint string `json:"server_cert_fingerprint"`
	}
	if json.Unmarshal(claims, &c) != nil {
		return ""
	}
	p, err := normalFingerprint(c.Fingerprint)
	if err != nil {
		return ""
	}
	return p
}

// checkPins compares the server's own certificate, not those of its chain.
func checkPins(addr string, pins []string, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return &failure{ErrIdentity, addr + " showed no certificate"}
	}
	got := fingerprint(chain[0].Raw)
	for _, want := range pins {
		if got != want {
			return &failure{ErrIdentity, fmt.Sprintf("%s has a certificate with the SHA-256 fingerprint %s, but %s is pinned;"+
				" nothing was sent; if the server got a new certificate, pin that, else somebody is in between", addr, got, want)}
		}
	}
	return nil
}

// identityError makes a failed verification an ErrIdentity that says what to do.
func identityError(addr string, err error) error {
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) {
		return err
	}
	got := "none"
	if len(bad.UnverifiedCertificates) > 0 {
		got = fingerprint(bad.UnverifiedCertificates[0].Raw)
	}
	return &failure{ErrIdentity, fmt.Sprintf("%s has a certificate that no known authority vouches for (%v); nothing was sent;"+
		" its SHA-256 fingerprint is %s: if the server's administrator says the same, pin it", addr, bad.Err, got)}
}

// fingerprint is the SHA-256 of a certificate in hex, as both servers show it.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// normalFingerprint accepts what people paste: colons, blanks, upper case.
func normalFingerprint(s string) (string, error) {
	b, err := hex.DecodeString(strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(s)))
	if err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("fingerprint %q: want the 64 hexadecimal digits of a SHA-256", message(s))
	}
	return hex.EncodeToString(b), nil
}

// FetchFingerprint asks a server for its certificate and returns its SHA-256 in hex, for a person to compare and pin.
// It trusts nobody and sends nothing.
func FetchFingerprint(ctx context.Context, addr string) (string, error) {
	der, err := fetchCertificate(ctx, addr)
	if err != nil {
		return "", err
	}
	return fingerprint(der), nil
}

func fetchCertificate(ctx context.Context, addr string) ([]byte, error) {
	t := Target{Addr: addr}
	_, host, err := t.endpoint()
	if err != nil {
		return nil, err
	}
	if host == "" {
		return nil, fmt.Errorf("address %q: a unix socket has no certificate", addr)
	}
	d, err := newDialer(t)
	if err != nil {
		return nil, err
	}
	var got []byte
	seen := errors.New("certificate seen")
	d.config.InsecureSkipVerify = true
	d.config.VerifyConnection = func(state tls.ConnectionState) error {
		got = bytes.Clone(state.PeerCertificates[0].Raw)
		return seen
	}
	conn, err := d.tls(ctx, "", "")
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, seen) {
		return nil, transportError(ctx, "fetch the certificate of "+d.addr, err)
	}
	return got, nil
}
