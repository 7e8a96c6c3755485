package gossip

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// Meta is what an agent says of itself. Encoded it must fit in 512 bytes.
type Meta struct {
	ID      string `json:"i"`           // node id: random, kept with the Raft log
	Name    string `json:"n,omitempty"` // for people
	Addr    string `json:"a,omitempty"` // host:port of the agent's one port
	Cluster string `json:"c,omitempty"` // cluster id; empty until the agent belongs to one
	Version string `json:"v,omitempty"` // of the program
	Witness bool   `json:"w,omitempty"` // has no MySQL server
	Leaving bool   `json:"l,omitempty"` // is about to stop on purpose
	// MACs are the link-layer addresses that it announces virtual IPs with, with
	// spaces between them.
	MACs string `json:"m,omitempty"`
}

// ErrMeta says that a Meta cannot be sent.
var ErrMeta = errors.New("gossip meta")

// Validate reports what makes m impossible to send, as [ErrMeta]: no ID, or more than 512 bytes.
func (m Meta) Validate() error {
	_, err := m.encode()
	return err
}

func (m Meta) encode() ([]byte, error) {
	if m.ID == "" {
		return nil, fmt.Errorf("%w: no node id", ErrMeta)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	if len(b) > memberlist.MetaMaxSize { // memberlist panics on it
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrMeta, len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	if err := json.Unmarshal(b, &m); err != nil {
		return Meta{}, fmt.Errorf("%w: %w", ErrMeta, err)
	}
	return m, nil
}
