package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Role says whose address it is.
type Role string

// The roles.
const (
	Primary Role = "primary" // follows the server that takes writes
	Reader  Role = "reader"  // is on one healthy replica
)

// Address is one virtual IP.
type Address struct {
	Addr netip.Addr
	// Interface is the name of the link that it goes on. Empty: the link whose
	// network holds the address, else the one of the route to it.
	Interface string
	Role      Role
}

// ParseAddr reads an address as a configuration has it. The error says what to
// write instead.
func ParseAddr(s string) (netip.Addr, error) {
	if bare, _, cut := strings.Cut(s, "/"); cut {
		return netip.Addr{}, fmt.Errorf("%q has a prefix length: write %q, it always is the address alone", s, bare)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an IP address: use one like 10.0.0.100 or fd00::100", s)
	}
	switch {
	case a.Zone() != "":
		return a, fmt.Errorf("%q has a zone: name the interface by itself", s)
	case a.Is4In6():
		return a, fmt.Errorf("%q is an IPv4 address in IPv6 clothes: write %s", s, a.Unmap())
	case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("%s is no address that clients on other hosts can connect to", s)
	}
	return a, nil
}

// Codes of what is wrong with an address. They are stable: scripts know them.
const (
	// CodeCapability: this process may not change addresses or send frames.
	CodeCapability = "HA-VIP-CAPABILITY"
	// CodeInterface: there is no link that the address can be on.
	CodeInterface = "HA-VIP-INTERFACE"
	// CodeInUse: the address is on this host and ha did not put it there, so it
	// would stay when the lease is over.
	CodeInUse = "HA-VIP-IN-USE"
	// CodeDuplicate: a host that is no member answers for the address.
	CodeDuplicate = "HA-VIP-DUPLICATE"
	// CodeFailed: the kernel does not take the address; it is tried again.
	CodeFailed = "HA-VIP-FAILED"
)

// Error is why an address cannot be held on this host.
type Error struct {
	Code string // HA-VIP-...
	Hint string // what to do
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func fault(code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// codeOf is the stable word of an error, CodeFailed if it has none.
func codeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeFailed
}
