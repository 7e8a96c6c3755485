package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// ALPN names beside HTTP's own "h2" and "http/1.1". The number is the version of what is spoken: an
// agent that no longer understands the old one is refused in the handshake.
const (
	ProtoRaft   = "ha-raft/1"
	ProtoGossip = "ha-gossip/1"
)

const (
	handshakeTimeout  = 3 * time.Second
	readHeaderTimeout = 5 * time.Second
)

// Server is an agent's port, TCP and UDP. It does the TLS handshakes itself, hands connections that
// speak Raft or gossip to their listeners and the rest to an HTTP server.
type Server struct {
	tcp     net.Listener
	udp     net.PacketConn
	id      *Identity
	log     *slog.Logger
	rejects throttle
	api     *acceptor
	ctx     context.Context // ends handshakes
	stop    context.CancelFunc
	wg      sync.WaitGroup // the accept loop and the handshakes

	mu   sync.Mutex
	http *http.Server
	subs map[string]*acceptor // by ALPN name
}

// Listen binds addr (host:port; port 0 lets the kernel choose) for TCP and UDP and starts to accept.
// The context bounds the binding only. Handshakes that fail are logged as warnings, at most one a
// minute for each remote host. A port that is taken gives an error that names addr and is
// syscall.EADDRINUSE.
func Listen(ctx context.Context, addr string, id *Identity, log *slog.Logger) (*Server, error) {
	tcp, udp, err := id.network().Listen(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	s := &Server{tcp: tcp, udp: udp, id: id, log: log, api: newAcceptor(tcp.Addr(), false), subs: map[string]*acceptor{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

// Addr returns the bound TCP address; its port is the real one where 0 was asked for.
func (s *Server) Addr() net.Addr { return s.tcp.Addr() }

// Packets returns the UDP socket on the same port. It belongs to the server: [Server.Close] closes it.
func (s *Server) Packets() net.PacketConn { return s.udp }

// Raft returns a listener of the connections that speak [ProtoRaft]. Closing it closes the connections
// that it has accepted too, and a later call returns a new one; while none is open, such connections
// are dropped.
func (s *Server) Raft() net.Listener { return s.listener(ProtoRaft) }

// Gossip returns a listener of the connections that speak [ProtoGossip], as [Server.Raft] does.
func (s *Server) Gossip() net.Listener { return s.listener(ProtoGossip) }

func (s *Server) listener(proto string) net.Listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.subs[proto]; a != nil && !a.closed() {
		return a
	}
	a := newAcceptor(s.tcp.Addr(), true)
	if s.ctx.Err() != nil {
		a.Close()
	}
	s.subs[proto] = a
	return a
}

// Serve answers API requests with h until the server is closed, then returns nil. [PeerName] of r.TLS
// tells a handler who asks. Connections that come before Serve wait for it for up to 3 s.
func (s *Server) Serve(h http.Handler) error {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	srv := &http.Server{
		Handler:           h,
		Protocols:         &p,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       2 * time.Minute,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.mu.Lock()
	closed := s.ctx.Err() != nil
	s.http = srv
	s.mu.Unlock()
	if closed {
		return nil
	}
	if err := srv.Serve(s.api); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Shutdown closes the port and lets the API requests that run end until ctx is done; then it closes
// all that is left, like [Server.Close].
func (s *Server) Shutdown(ctx context.Context) error {
	s.tcp.Close()
	s.mu.Lock()
	srv := s.http
	s.mu.Unlock()
	var err error
	if srv != nil {
		err = srv.Shutdown(ctx)
	}
	return errors.Join(err, s.Close())
}

// Close closes the port and every connection that came in through it.
func (s *Server) Close() error {
	s.stop()
	s.tcp.Close()
	s.udp.Close()
	s.mu.Lock()
	srv := s.http
	for _, a := range s.subs {
		a.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.api.Close()
	if srv != nil {
		return srv.Close()
	}
	return nil
}

func (s *Server) accept() {
	for {
		conn, err := s.tcp.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // out of file descriptors, most likely: others may give some back
			s.log.Warn("accept", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-s.ctx.Done():
				return
			}
		default:
			s.wg.Go(func() { s.handshake(conn) })
		}
	}
}

// handshake finds out who is there and passes the connection on.
func (s *Server) handshake(raw net.Conn) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, s.id.ServerTLS("h2", "http/1.1", ProtoRaft, ProtoGossip))
	if err := conn.HandshakeContext(ctx); err != nil {
		s.reject(raw, err)
		return
	}
	to := s.api
	if proto := conn.ConnectionState().NegotiatedProtocol; proto == ProtoRaft || proto == ProtoGossip {
		s.mu.Lock()
		to = s.subs[proto]
		s.mu.Unlock()
	}
	if to == nil || !to.offer(ctx, conn) {
		conn.Close()
	}
}

func (s *Server) reject(raw net.Conn, err error) {
	defer raw.Close()
	if s.ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return // we are closing, or it was a port check that said nothing
	}
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil {
		plain.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(plain.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nThis port speaks TLS with the certificates of its cluster only.\n")
	}
	host, _, _ := net.SplitHostPort(raw.RemoteAddr().String())
	if s.rejects.allow(host) {
		s.log.Warn("connection refused", "remote", host, "err", ClassifyDialError(err))
	}
}
