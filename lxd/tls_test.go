package lxd

import "crypto/tls"

// serverTLS asks for a client certificate and takes any, like both servers.
func serverTLS() *tls.Config {
	return &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
}
