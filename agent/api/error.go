package api

import (
	"errors"
	"fmt"
)

// Exit codes of the command line. The list is append only: scripts know them.
const (
	ExitOK          = 0   // done, or it was so already
	ExitFailed      = 1   // it did not work
	ExitUsage       = 2   // the command line or the configuration is wrong
	ExitRefused     = 3   // refused: it would put data at risk
	ExitNoQuorum    = 4   // no majority of agents
	ExitTimeout     = 5   // timed out; the outcome is unknown
	ExitUnreachable = 6   // no agent answers at any known address
	ExitDegraded    = 7   // ha status: the cluster is degraded
	ExitNoPrimary   = 8   // ha status: no writable primary
	ExitBusy        = 9   // another operation or lease holds it
	ExitInterrupted = 130 // a person pressed Ctrl-C
)

// Error is an error that a person or a script is to act on. Msg says what is
// wrong, Hint what to do; Word is the stable code word of a refusal (HA-...).
type Error struct {
	Code int    `json:"code"` // exit code
	Word string `json:"word,omitempty"`
	Msg  string `json:"msg"`
	Hint string `json:"hint,omitempty"`
	Err  error  `json:"-"` // the cause; its text is part of Error's
}

func (e *Error) Error() string {
	s := e.Msg
	if e.Err != nil {
		if s != "" {
			s += ": "
		}
		s += e.Err.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is the process's exit code for this error.
func (e *Error) ExitCode() int { return e.Code }

// WithHint returns the same error with what to do about it.
func (e *Error) WithHint(format string, args ...any) *Error {
	f := *e
	f.Hint = fmt.Sprintf(format, args...)
	return &f
}

// Errorf makes an error with an exit code. A %w in the format is the cause.
func Errorf(code int, format string, args ...any) *Error {
	// The cause stays in the text where the format puts it, so it is kept for
	// errors.Is and errors.As only.
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Err: err}
}

// Failed makes an error for what did not work.
func Failed(format string, args ...any) *Error { return Errorf(ExitFailed, format, args...) }

// Usage makes an error for a wrong command line or configuration.
func Usage(format string, args ...any) *Error { return Errorf(ExitUsage, format, args...) }

// Refused makes an error for what would put data at risk or is not allowed;
// word is its stable code word.
func Refused(word, format string, args ...any) *Error {
	e := Errorf(ExitRefused, format, args...)
	e.Word = word
	return e
}

// NoQuorum makes an error for what needs a majority that is not there.
func NoQuorum(format string, args ...any) *Error { return Errorf(ExitNoQuorum, format, args...) }

// Timeout makes an error for what may or may not have happened.
func Timeout(format string, args ...any) *Error { return Errorf(ExitTimeout, format, args...) }

// Unreachable makes an error for agents that do not answer.
func Unreachable(format string, args ...any) *Error { return Errorf(ExitUnreachable, format, args...) }

// Busy makes an error for what another operation or lease holds.
func Busy(format string, args ...any) *Error { return Errorf(ExitBusy, format, args...) }

// ExitCode gives the exit code of any error: its own if it or a cause has one,
// 1 otherwise, 0 for nil.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	var coded interface{ ExitCode() int }
	if errors.As(err, &coded) {
		return coded.ExitCode()
	}
	return ExitFailed
}
