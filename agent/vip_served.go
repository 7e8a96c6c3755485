package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ha/raftfsm"
)

// codeNotServed: connections to the virtual IP are refused.
const codeNotServed = "HA-VIP-NOT-SERVED"

// servedEvery is how often it is looked whether mysqld listens on the virtual IPs.
const servedEvery = 10 * time.Second

// watchServed notices a mysqld that was started before a virtual IP was configured:
// it listens on the address of its host only.
func (a *Agent) watchServed(ctx context.Context) {
	if a.vip == nil {
		return
	}
	for {
		var bad []raftfsm.Problem
		if on := listening("/proc/net/tcp", "/proc/net/tcp6"); len(on[a.cfg.MySQL.Port]) > 0 {
			for _, v := range a.cfg.addresses() {
				if !serves(on[a.cfg.MySQL.Port], v.Addr) {
					bad = append(bad, raftfsm.Problem{Code: codeNotServed, Text: fmt.Sprintf(
						"mysqld does not listen on the virtual IP %s, as it was started before that was configured: it has to be started anew", v.Addr)})
				}
			}
		}
		a.unserved.Store(&bad)
		if pause(ctx, servedEvery) != nil {
			return
		}
	}
}

// serves says that a connection to addr comes to one of the listeners.
func serves(listeners []netip.Addr, addr netip.Addr) bool {
	return slices.ContainsFunc(listeners, func(l netip.Addr) bool {
		return l == addr || l == netip.IPv6Unspecified() || l.IsUnspecified() && addr.Is4()
	})
}

// listening reads by port on which addresses of this host something listens for TCP,
// from files like /proc/net/tcp. What cannot be read is left out.
func listening(files ...string) map[int][]netip.Addr {
	out := make(map[int][]netip.Addr)
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// sl local_address rem_address st ...
			words := strings.Fields(lines.Text())
			if len(words) < 4 || words[3] != "0A" {
				continue
			}
			host, port, _ := strings.Cut(words[1], ":")
			addr, ok := procAddr(host)
			if p, err := strconv.ParseUint(port, 16, 16); err == nil && ok {
				out[int(p)] = append(out[int(p)], addr)
			}
		}
		_ = f.Close()
	}
	return out
}

// procAddr reads an address as the kernel prints it: words of four bytes in the
// order of this machine.
func procAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return a.Unmap(), ok
}
