// Package lxdtest gives tests a server to talk to: a private Incus daemon, or the embedded store behind the same face.
// It is to package lxd what net/http/httptest is to net/http, and is only ever imported by tests.
//
// Every server lives in a short directory of its own, and is gone with the test that asked for it. Should the test
// binary be killed, a janitor (see newHome) ends the daemon and removes the directory.
package lxdtest
