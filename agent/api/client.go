package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"ha/agent/wire"
)

const (
	hedge     = 300 * time.Millisecond // an address without an answer that long: the next is asked as well
	maxAnswer = 16 << 20               // bytes of an answer
)

// Client asks the agents of one cluster. Any agent answers for all of them.
type Client struct {
	// HTTP speaks mutual TLS with the cluster's secret (wire.HTTPClient).
	HTTP *http.Client
	// Addrs are the agents known, host:port, in the order to be asked.
	Addrs []string
}

// Failure says why one address gave no answer.
type Failure struct {
	Addr string
	Err  error
}

// Get asks for path and decodes the answer into v. It asks the next address as
// soon as one fails, or has not answered for 0.3 s; the first answer wins. It
// returns the address that answered. The context's deadline bounds it all.
//
// The error is an [*Error]: with ExitUnreachable if no address answered,
// ExitRefused if one that was reached has another secret, else the agent's own.
func (c *Client) Get(ctx context.Context, path string, v any) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, len(c.Addrs))
	var failures []Failure
	next := 0
	ask := func() {
		if next < len(c.Addrs) {
			addr := c.Addrs[next]
			next++
			go func() { answers <- c.do(ctx, http.MethodGet, addr, path, nil) }()
		}
	}
	ask()
	timer := time.NewTicker(hedge)
	defer timer.Stop()
	var refused error // an agent's own "no", kept while others may do better
	for open := len(c.Addrs); open > 0; {
		select {
		case <-timer.C:
			ask()
		case a := <-answers:
			open--
			var own *Error
			switch {
			case a.err == nil:
				return a.addr, json.Unmarshal(a.body, v)
			case errors.As(a.err, &own):
				refused = a.err
			default:
				failures = append(failures, Failure{a.addr, a.err})
			}
			ask()
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", unreachable(failures)
}

type answer struct {
	addr string
	body []byte
	err  error
}

// Post sends a document that changes something and decodes the answer into out.
// It asks the addresses one after the other: the next one when one fails, does
// not answer, or knows of no coordinator, for a few seconds again and again. So
// it must be safe to ask twice.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	for began := time.Now(); ; {
		var failures []Failure
		var none *Error // no coordinator: there may be one in a moment
		for _, addr := range c.Addrs {
			actx, cancel := context.WithTimeout(ctx, postBound)
			a := c.do(actx, http.MethodPost, addr, path, body)
			cancel()
			var own *Error
			switch {
			case a.err == nil:
				return json.Unmarshal(a.body, out)
			case ctx.Err() != nil && len(failures) == 0 && none == nil:
				return Timeout("%s: %w", addr, ctx.Err())
			case errors.As(a.err, &own) && own.Code == ExitNoQuorum:
				none = own
			case own != nil:
				return own
			default:
				failures = append(failures, Failure{addr, a.err})
			}
		}
		switch {
		case none == nil:
			return unreachable(failures)
		case ctx.Err() != nil || time.Since(began) > electionBound:
			return none
		}
		select {
		case <-ctx.Done():
		case <-time.After(hedge):
		}
	}
}

const (
	postBound     = 5 * time.Second // for one address
	electionBound = 4 * time.Second // for a coordinator to be elected
)

func (c *Client) do(ctx context.Context, method, addr, path string, content []byte) answer {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+addr+path, bytes.NewReader(content))
	if err != nil {
		return answer{addr: addr, err: err}
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return answer{addr: addr, err: wire.ClassifyDialError(err)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = readError(resp.StatusCode, body)
	}
	return answer{addr: addr, body: body, err: wire.ClassifyDialError(err)}
}

// WriteJSON answers a request with a document.
func WriteJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// Who asked has gone if this fails.
	_ = json.NewEncoder(w).Encode(v)
}

// WriteError answers a request with an error that [Client] gives back as the
// [*Error] it was, with its exit code, word and hint.
func WriteError(w http.ResponseWriter, err error) {
	e := Error{Code: ExitCode(err), Msg: err.Error()}
	var own *Error
	if errors.As(err, &own) {
		e.Word, e.Hint = own.Word, own.Hint
	}
	status := http.StatusInternalServerError
	switch e.Code {
	case ExitUsage:
		status = http.StatusBadRequest
	case ExitRefused, ExitBusy:
		status = http.StatusConflict
	case ExitNoQuorum, ExitUnreachable, ExitNoPrimary:
		status = http.StatusServiceUnavailable
	case ExitTimeout:
		status = http.StatusGatewayTimeout
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e)
}

// ReadError gives the error that [WriteError] wrote; nil: it is not one.
func ReadError(body []byte) *Error {
	var e Error
	if json.Unmarshal(body, &e) == nil && e.Code != 0 && e.Msg != "" {
		return &e
	}
	return nil
}

func readError(status int, body []byte) error {
	if e := ReadError(body); e != nil {
		return e
	}
	return fmt.Errorf("HTTP status %d: %s", status, strings.TrimSpace(string(body[:min(len(body), 200)])))
}

// unreachable says which addresses were tried, why each failed, what to do.
func unreachable(failures []Failure) error {
	if len(failures) == 0 {
		return Unreachable("no address of an agent is known").
			WithHint("Give one with --addr host:port, or a configuration with --config.")
	}
	lines := make([]string, len(failures))
	wrong := false
	for i, f := range failures {
		lines[i] = fmt.Sprintf("  %s: %s", f.Addr, reason(f.Err))
		wrong = wrong || errors.Is(f.Err, wire.ErrWrongSecret)
	}
	tried := strings.Join(lines, "\n")
	if wrong {
		return Refused("HA-WRONG-SECRET", "the cluster does not accept the secret:\n%s%w", tried, hidden{wire.ErrWrongSecret}).
			WithHint("Use the configuration of that cluster: --config, or HA_CONFIG (secret_file must name a copy of its secret).")
	}
	return Unreachable("no agent answers:\n%s", tried).
		WithHint("Start an agent (ha agent --config FILE; in the sandbox: ha sandbox up), or name one that runs with --addr host:port.")
}

// hidden is a cause that errors.Is finds and the text, which says it, does not
// say again.
type hidden struct{ error }

func (h hidden) Error() string { return "" }
func (h hidden) Unwrap() error { return h.error }

// reason turns what the network said into words.
func reason(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, wire.ErrWrongSecret):
		return "it has another secret"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens there (is the agent down?)"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to that host"
	case errors.As(err, &dns):
		return "the name does not resolve: " + dns.Err
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time (host down, firewall, or a frozen agent?)"
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer in time (host down, firewall, or a frozen agent?)"
	}
	return strings.TrimPrefix(err.Error(), "Get ")
}
