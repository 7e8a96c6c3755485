// Package vip puts virtual IP addresses on this host for as long as a lease lasts,
// announces them and takes them off.
//
// An address is given to the kernel with the rest of the lease, rounded down to
// whole seconds, as its lifetime: the kernel itself drops it when nobody renews it,
// also where the agent is dead or frozen (S4). It is deprecated from the start, so
// that it never becomes the source of this host's own connections, and a /32 or
// /128, so that it never goes with another address of its network.
//
// TCP connections to it are ended when it is taken off, which is a moment before the
// kernel would do it: their clients would wait for ever.
//
// Whose lease it is and when it is over is decided elsewhere: see [Manager.Hold]
// and [Manager.Drop]. CAP_NET_ADMIN and CAP_NET_RAW are all that is needed.
package vip
