package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// ErrWrongSecret says that the two ends of a connection have different cluster secrets.
var ErrWrongSecret = errors.New("the other side has another cluster secret")

// Dial connects to an agent at addr (host:port) and agrees on proto ([ProtoRaft], [ProtoGossip]) before
// it returns. The context bounds both, not the life of the connection. If the other end has another
// secret the error is [ErrWrongSecret].
func Dial(ctx context.Context, addr, proto string, id *Identity) (net.Conn, error) {
	raw, err := id.network().Dial(ctx, addr)
	if err != nil {
		return nil, err // names the address already
	}
	conn := tls.Client(raw, id.ClientTLS(proto))
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("dial %s: %w", addr, ClassifyDialError(err))
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != proto {
		conn.Close()
		return nil, fmt.Errorf("dial %s: it speaks %q, not %q", addr, got, proto)
	}
	return conn, nil
}

// HTTPClient returns a client for the API of any number of agents (https://host:port/…). Requests to
// one agent share one HTTP/2 connection that is kept open; pings break it about 2 s after its peer has
// gone. The client sets no deadline of its own: each request's context does. Errors go through
// [ClassifyDialError] to recognise a wrong secret.
//
// Use [StreamClient] for bulk data: on a shared connection it would hold up the heartbeats.
func HTTPClient(id *Identity) *http.Client {
	var p http.Protocols
	p.SetHTTP2(true)
	t := transport(p, id, "h2")
	t.HTTP2 = &http.HTTP2Config{
		SendPingTimeout:  time.Second,
		PingTimeout:      time.Second,
		WriteByteTimeout: 3 * time.Second,
	}
	return &http.Client{Transport: t}
}

// StreamClient returns a client like [HTTPClient] that speaks HTTP/1.1: each request that runs has a
// connection to itself, as long copies need.
func StreamClient(id *Identity) *http.Client {
	var p http.Protocols
	p.SetHTTP1(true)
	return &http.Client{Transport: transport(p, id, "http/1.1")}
}

// dialTimeout bounds an HTTP client's connecting; what was begun may serve a later request.
const dialTimeout = 3 * time.Second

func transport(p http.Protocols, id *Identity, proto string) *http.Transport {
	return &http.Transport{
		Protocols:       &p,
		TLSClientConfig: id.ClientTLS(proto),
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return id.network().Dial(ctx, addr)
		},
		TLSHandshakeTimeout: 3 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
	}
}

// ClassifyDialError returns err, wrapped in [ErrWrongSecret] if it says that one side did not accept
// the other's certificate: ours was refused (a TLS alert, which in TLS 1.3 may come as late as the
// first read), or theirs is from another CA. Nil stays nil.
func ClassifyDialError(err error) error {
	if err == nil || errors.Is(err, ErrWrongSecret) || !certificateRefused(err) {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrWrongSecret, err)
}

func certificateRefused(err error) bool {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return true
	}
	// crypto/tls does not export its alert type; the operation and the texts are stable.
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	for _, alert := range []string{"unknown certificate authority", "bad certificate", "certificate required"} {
		if strings.Contains(op.Err.Error(), alert) {
			return true
		}
	}
	return false
}
