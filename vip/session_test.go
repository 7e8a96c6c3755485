package vip

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// connect gives both ends of a connection from the peer to an address of this host.
func (h *hosts) connect(t *testing.T, at net.Listener, addr netip.Addr) (client, server net.Conn) {
	t.Helper()
	must(t, netns.Set(h.far))
	port := uint16(at.Addr().(*net.TCPAddr).Port)
	client, err := (&net.Dialer{KeepAlive: -1}).Dial("tcp", netip.AddrPortFrom(addr, port).String())
	must(t, netns.Set(h.ns))
	must(t, err)
	server, err = at.Accept()
	must(t, err)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

// listenBoth listens as mysqld does: IPv4 comes as IPv6.
func listenBoth(t *testing.T) net.Listener {
	t.Helper()
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0) })
		return errors.Join(err, cerr)
	}}
	l, err := c.Listen(t.Context(), "tcp6", "[::]:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// waiting has the client wait for something that never comes, and tells how that ended.
func waiting(client net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := client.Read(make([]byte, 1))
		done <- err
	}()
	return done
}

func ended(t *testing.T, limit time.Duration, what string, wait <-chan error) {
	t.Helper()
	select {
	case err := <-wait:
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the client was told %v", what, err)
		}
	case <-time.After(limit):
		t.Errorf("%s: the client waits still", what)
	}
}

// Whoever waits for an answer through an address hears of its end: when the role
// goes, and when a lease ends that is not renewed, before the kernel drops the
// address. Connections to other addresses go on, and so do those who listen.
func TestConnectionsEndWithTheAddress(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{})
	both := listenBoth(t)
	only4, err := net.Listen("tcp4", "0.0.0.0:0")
	must(t, err)
	defer only4.Close()
	for _, how := range []string{"dropped", "not renewed"} {
		m.Hold(Primary, boottime()+lease/2)
		for _, vip := range []netip.Addr{vip4, vip6} {
			within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip)) == 1 })
		}
		mine, err := net.Listen("tcp", net.JoinHostPort(vip4.String(), "0"))
		must(t, err)
		var waits []<-chan error
		for _, to := range []struct {
			at   net.Listener
			addr netip.Addr
		}{{both, vip4}, {both, vip6}, {only4, vip4}, {mine, vip4}} {
			client, _ := h.connect(t, to.at, to.addr)
			waits = append(waits, waiting(client))
		}
		other, server := h.connect(t, both, netip.MustParsePrefix(ours4).Addr())
		limit := 200 * time.Millisecond
		if how == "dropped" {
			m.Drop(Primary)
		} else {
			limit = lease / 2
		}
		for i, w := range waits {
			ended(t, limit, how+" "+string(rune('1'+i)), w)
		}
		_, err = server.Write([]byte("x"))
		must(t, err)
		must(t, other.SetReadDeadline(time.Now().Add(time.Second)))
		if _, err := other.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: a connection to another address: %v", how, err)
		}
		must(t, mine.(*net.TCPListener).SetDeadline(time.Now().Add(10*time.Millisecond)))
		var timeout net.Error
		if _, err := mine.Accept(); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%s: who listens: %v", how, err)
		}
		mine.Close()
	}
}

// The last part of a second of a lease is used too: what is put on for whole seconds
// is put on again for the rest.
func TestRestOfALease(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{})
	at := boottime()
	m.Hold(Primary, at+2990*time.Millisecond) // 2 s, and 1 s more
	within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip4)) == 1 })
	within(t, 4*time.Second, "gone", func() bool { return len(find(t, h.here, vip4)) == 0 })
	if after := boottime() - at; after < 2500*time.Millisecond || after > 2990*time.Millisecond {
		t.Errorf("gone after %s of a lease of 2.99 s", after)
	}
}

// Many connections do not keep the address for long.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	h := twoHosts(t)
	m := h.open(t, Config{})
	m.Hold(Primary, boottime()+lease)
	within(t, time.Second, "put on", func() bool { return len(find(t, h.here, vip4)) == 1 })
	at := listenBoth(t)
	var waits []<-chan error
	for range 3*endBatch + 1 {
		client, _ := h.connect(t, at, vip4)
		waits = append(waits, waiting(client))
	}
	m.Drop(Primary)
	within(t, 2*endMost+100*time.Millisecond, "taken off", func() bool { return len(find(t, h.here, vip4)) == 0 })
	for _, w := range waits {
		ended(t, time.Second, "one of many", w)
	}
}

func TestDiagNumbers(t *testing.T) {
	if sockDiagByFamily != nl.SOCK_DIAG_BY_FAMILY || sockDestroy != nl.SOCK_DESTROY {
		t.Error("not those of the kernel")
	}
}
