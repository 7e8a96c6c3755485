package wire

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// relay forwards TCP to an address until it is frozen: then bytes vanish and nobody is told, as when
// a host dies or its cable is cut.
type relay struct {
	net.Listener
	frozen atomic.Bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	pipe := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				return
			}
			if !r.frozen.Load() {
				dst.Write(buf[:n])
			}
		}
	}
	wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			mu.Lock()
			open = append(open, a, b)
			mu.Unlock()
			wg.Go(func() { pipe(a, b) })
			wg.Go(func() { pipe(b, a) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

// A request without a deadline, over a connection whose other end has vanished, fails in about 2 s.
func TestVanishedPeerIsNoticed(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{}, 1)
	s, _ := mustServer(t, mustIdentity(t, "x", "a"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
	}))
	r := newRelay(t, s.Addr().String())
	client := HTTPClient(mustIdentity(t, "x", "b"))
	defer client.CloseIdleConnections()
	failed := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(context.Background(), "GET", "https://"+r.Addr().String(), nil)
		resp, err := client.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		failed <- err
	}()
	<-begun
	r.frozen.Store(true)
	start := time.Now()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("no error")
		}
		t.Logf("noticed after %v: %v", time.Since(start).Round(time.Millisecond), err)
	case <-time.After(5 * time.Second):
		t.Error("not noticed in 5 s")
	}
}
