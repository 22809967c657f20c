// Package control is the local control socket of a running isosyncd: JSON over HTTP on a unix socket. Serve is the
// daemon's side of it, Client everybody else's; the daemon's own command line is such a client.
//
// The interface, stable within version 1:
//
//	GET  /1/status    one Status
//	GET  /1/changes   a Status for each change, one JSON document per line, until somebody hangs up
//	POST /1/retry     {"name": FILE-OR-VOLUME}  forget its failures and try again
//	POST /1/adopt     {"volume": NAME}          make a foreign volume ours
//	POST /1/rescan                              look at folder and pool now
//	GET  /healthz     200 "ok" while the deciding goroutine lives, 503 if it does not
//	GET  /metrics     Prometheus text format
//	GET  /debug/pprof/...  profiles; for root and the daemon's own user alone
//
// Times are RFC 3339, durations are seconds, sizes are bytes. A refusal is {"error": {code, text, remedy, waits}} with
// a status of 400 or more.
//
// Who may connect is decided twice: by the socket's mode (0660), and by the credentials that the kernel gives of the
// peer: root, the daemon's own user, and members of the socket's group.
package control
