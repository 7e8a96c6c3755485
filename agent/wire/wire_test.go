package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// goldenKey begins the gossip key of the secret "golden".
var goldenKey = []byte{0x65, 0x9e, 0xfc, 0x26}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustIdentity(t *testing.T, secret, name string) *Identity {
	t.Helper()
	id, err := NewIdentity(DeriveKeys(secret), name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// errLog is a slog handler that keeps the errors it is given.
type errLog struct {
	mu   sync.Mutex
	errs []error
}

func (l *errLog) Enabled(context.Context, slog.Level) bool { return true }
func (l *errLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *errLog) WithGroup(string) slog.Handler            { return l }
func (l *errLog) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			l.mu.Lock()
			l.errs = append(l.errs, err)
			l.mu.Unlock()
		}
		return true
	})
	return nil
}

func (l *errLog) has(target error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.errs {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func mustServer(t *testing.T, id *Identity, h http.Handler) (*Server, *errLog) {
	t.Helper()
	log := &errLog{}
	s, err := Listen(t.Context(), "127.0.0.1:0", id, slog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	if h != nil {
		wg.Go(func() {
			if err := s.Serve(h); err != nil {
				t.Errorf("Serve: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		s.Close()
		wg.Wait()
	})
	return s, log
}

func ctxFor(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 5 s: %s", what)
		}
	}
}

func TestSameSecretGivesSameKeys(t *testing.T) {
	a, b, c := DeriveKeys("s1"), DeriveKeys("s1"), DeriveKeys("s2")
	if !bytes.Equal(a.GossipKey(), b.GossipKey()) || !a.ca.Equal(b.ca) {
		t.Error("one secret, two sets of keys")
	}
	if bytes.Equal(a.GossipKey(), c.GossipKey()) || a.ca.Equal(c.ca) {
		t.Error("two secrets, one set of keys")
	}
	if len(a.GossipKey()) != 32 {
		t.Errorf("gossip key has %d bytes", len(a.GossipKey()))
	}
	if bytes.Equal(a.GossipKey(), a.ca.Seed()) {
		t.Error("one key for two purposes")
	}
	ca1, err1 := caCertificate(a)
	ca2, err2 := caCertificate(b)
	if err1 != nil || err2 != nil || !bytes.Equal(ca1.Raw, ca2.Raw) {
		t.Errorf("CA certificates differ (%v, %v)", err1, err2)
	}
	// Clusters live for years: a changed derivation would cut them in two at an upgrade.
	if got := DeriveKeys("golden").GossipKey()[:4]; !bytes.Equal(got, goldenKey) {
		t.Errorf("derivation changed: %x", got)
	}
}

func TestNewSecret(t *testing.T) {
	a, b := NewSecret(), NewSecret()
	if a == b || len(a) != 43 || strings.ContainsAny(a, " '\"$\\\n") {
		t.Errorf("secrets %q, %q", a, b)
	}
}

// echo answers one line.
func echo(t *testing.T, l net.Listener) {
	c, err := l.Accept()
	if err != nil {
		t.Errorf("accept: %v", err)
		return
	}
	defer c.Close()
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("read: %v", err)
		return
	}
	c.Write(b)
}

func TestThreeProtocolsOnOnePort(t *testing.T) {
	s, _ := mustServer(t, mustIdentity(t, "x", "node1"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Proto+" "+PeerName(r.TLS))
	}))
	id := mustIdentity(t, "x", "node2")
	var wg sync.WaitGroup
	defer wg.Wait()
	for proto, l := range map[string]net.Listener{ProtoRaft: s.Raft(), ProtoGossip: s.Gossip()} {
		wg.Go(func() { echo(t, l) })
		c, err := Dial(ctxFor(t, 5*time.Second), s.Addr().String(), proto, id)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got := make([]byte, 4)
		io.WriteString(c, "ping")
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "ping" {
			t.Errorf("%s: %q, %v", proto, got, err)
		}
	}
	for want, client := range map[string]*http.Client{"HTTP/2.0 node2": HTTPClient(id), "HTTP/1.1 node2": StreamClient(id)} {
		defer client.CloseIdleConnections()
		resp, err := client.Get("https://" + s.Addr().String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != want {
			t.Errorf("got %q, want %q", body, want)
		}
	}
	if _, tcp, _ := net.SplitHostPort(s.Addr().String()); !strings.HasSuffix(s.Packets().LocalAddr().String(), ":"+tcp) {
		t.Errorf("UDP on %s, TCP on %s", s.Packets().LocalAddr(), s.Addr())
	}
}

func TestOneClientSeveralHosts(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	client := HTTPClient(mustIdentity(t, "x", "client"))
	defer client.CloseIdleConnections()
	for range 2 {
		s, _ := mustServer(t, mustIdentity(t, "x", "n"), hello)
		resp, err := client.Get("https://" + s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
}

func TestWrongSecretOnBothSides(t *testing.T) {
	s, log := mustServer(t, mustIdentity(t, "right", "a"), http.NotFoundHandler())
	id := mustIdentity(t, "wrong", "b")
	if _, err := Dial(ctxFor(t, 5*time.Second), s.Addr().String(), ProtoRaft, id); !errors.Is(err, ErrWrongSecret) {
		t.Errorf("Dial: %v", err)
	}
	client := HTTPClient(id)
	if _, err := client.Get("https://" + s.Addr().String()); !errors.Is(ClassifyDialError(err), ErrWrongSecret) {
		t.Errorf("Get: %v", err)
	}
	poll(t, "the server logs ErrWrongSecret", func() bool { return log.has(ErrWrongSecret) })
	if len(log.errs) != 1 {
		t.Errorf("logged %d times: %v", len(log.errs), log.errs)
	}
}

// A client that trusts the server but has no certificate learns of it when it reads.
func TestServerRefusesOurCertificate(t *testing.T) {
	s, log := mustServer(t, mustIdentity(t, "x", "a"), http.NotFoundHandler())
	cfg := mustIdentity(t, "x", "b").ClientTLS(ProtoRaft)
	for name, certs := range map[string][]tls.Certificate{"none": nil, "foreign": {mustIdentity(t, "y", "b").leaf}} {
		cfg.Certificates = certs
		c, err := tls.Dial("tcp", s.Addr().String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(ClassifyDialError(err), ErrWrongSecret) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	poll(t, "the server logs it", func() bool { log.mu.Lock(); defer log.mu.Unlock(); return len(log.errs) > 0 })
}

func TestClassifyLeavesOthersAlone(t *testing.T) {
	if ClassifyDialError(nil) != nil {
		t.Error("nil became an error")
	}
	for _, err := range []error{io.EOF, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, &net.OpError{Op: "remote error", Err: errors.New("tls: no application protocol")}} {
		if got := ClassifyDialError(err); !errors.Is(got, err) || errors.Is(got, ErrWrongSecret) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// Old TLS, an unknown protocol, and protocols nobody listens to are refused.
func TestRefused(t *testing.T) {
	s, _ := mustServer(t, mustIdentity(t, "x", "a"), http.NotFoundHandler())
	id := mustIdentity(t, "x", "b")
	old := id.ClientTLS("h2")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if c, err := tls.Dial("tcp", s.Addr().String(), old); err == nil {
		c.Close()
		t.Error("TLS 1.2 accepted")
	}
	if c, err := Dial(ctxFor(t, 5*time.Second), s.Addr().String(), "ha-raft/0", id); err == nil {
		c.Close()
		t.Error("unknown protocol accepted")
	}
	c, err := Dial(ctxFor(t, 5*time.Second), s.Addr().String(), ProtoRaft, id)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("without a listener: %v", err)
	}
}

func TestGarbageDoesNotHang(t *testing.T) {
	s, _ := mustServer(t, mustIdentity(t, "x", "a"), http.NotFoundHandler())
	for _, say := range []string{"GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01\xff\xff" + strings.Repeat("z", 100), "\x00\x00\x00\x00\x00"} {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, say)
		c.SetReadDeadline(time.Now().Add(handshakeTimeout + 2*time.Second))
		if b, err := io.ReadAll(c); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Errorf("%q: %q, %v", say, b, err)
		}
		c.Close()
	}
	// It still works for others.
	if c, err := Dial(ctxFor(t, 5*time.Second), s.Addr().String(), ProtoRaft, mustIdentity(t, "x", "b")); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// One who connects and says nothing is sent away, and holds nobody up meanwhile.
func TestSilenceEnds(t *testing.T) {
	t.Parallel()
	s, _ := mustServer(t, mustIdentity(t, "x", "a"), http.NotFoundHandler())
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c, err := Dial(ctxFor(t, time.Second), s.Addr().String(), ProtoRaft, mustIdentity(t, "x", "b")); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	c.SetReadDeadline(time.Now().Add(handshakeTimeout + 2*time.Second))
	if _, err := c.Read(make([]byte, 1)); isTimeout(err) {
		t.Error("still connected")
	}
}

func TestPortTaken(t *testing.T) {
	id := mustIdentity(t, "x", "a")
	s, _ := mustServer(t, id, nil)
	addr := s.Addr().String()
	if _, err := Listen(t.Context(), addr, id, slog.Default()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) {
		t.Errorf("TCP: %v", err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	addr = udp.LocalAddr().String()
	if _, err := Listen(t.Context(), addr, id, slog.Default()); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) {
		t.Errorf("UDP: %v", err)
	}
}

// Raft's transport does not close what it accepted, so its listener does; and a second Raft on the same
// port starts afresh.
func TestClosedListenerClosesItsConnections(t *testing.T) {
	s, _ := mustServer(t, mustIdentity(t, "x", "a"), nil)
	id := mustIdentity(t, "x", "b")
	for range 2 {
		l := s.Raft()
		accepted := make(chan net.Conn, 1)
		go func() { c, _ := l.Accept(); accepted <- c }()
		c, err := Dial(ctxFor(t, 5*time.Second), s.Addr().String(), ProtoRaft, id)
		if err != nil {
			t.Fatal(err)
		}
		if <-accepted == nil {
			t.Fatal("not accepted")
		}
		l.Close()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("still connected: %v", err)
		}
		c.Close()
	}
}

func TestShutdownLetsRequestsEnd(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s, _ := mustServer(t, mustIdentity(t, "x", "a"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-end
		io.WriteString(w, "done")
	}))
	client := HTTPClient(mustIdentity(t, "x", "b"))
	defer client.CloseIdleConnections()
	body := make(chan string, 1)
	go func() {
		resp, err := client.Get("https://" + s.Addr().String())
		if err != nil {
			body <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		body <- string(b)
	}()
	<-begun
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(ctxFor(t, 5*time.Second)) }()
	poll(t, "the port is closed", func() bool {
		c, err := net.Dial("tcp", s.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	close(end)
	if got := <-body; got != "done" {
		t.Errorf("the request got %q", got)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
