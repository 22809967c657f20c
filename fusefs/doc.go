// Package fusefs shows the heart as a directory: one read-only file for each ISO volume of the pool. What is written
// there becomes a file of the heart's folder, and from there a volume like any other.
//
// docs/SEMANTICS.md says what a program may rely on, and which test proves it. The rules that keep the kernel from
// waiting for us while we wait for the kernel:
//
//   - Nothing here ever touches the mount itself, by path or by descriptor.
//   - Nothing here notifies the kernel. Names live for no time (0.9 s after a listing) and attributes for 0.9 s, so a
//     change shows within a second, and content never changes under one inode, so there is nothing to invalidate.
//   - UNLINK and RENAME hold the kernel's lock of the directory. They wait for the server for a bounded time, and never
//     for another request of this mount. OPEN, READ and FLUSH hold no lock that others need, and may wait.
//   - Every wait ends with the request's interrupt and with the mount.
package fusefs
