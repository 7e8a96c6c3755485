package agent

import (
	"context"
	"fmt"
	"time"

	"ha/agent/api"
	"ha/raftfsm"
)

const (
	// maxNotes wait to be told; more than that in a minute tell nobody anything.
	maxNotes = 32
	maxNote  = 600 // bytes of one
	// noteTries and notePause: a coordinator may have to be elected first.
	noteTries = 120
	notePause = 500 * time.Millisecond
)

// note has something that happened on this node stand in the cluster's events. It
// returns at once; what cannot be told within a minute is in the log only.
func (a *Agent) note(text string) {
	select {
	case a.notes <- text[:min(len(text), maxNote)]:
	default:
		a.log.Warn("too much happens: not in the events", "what", text)
	}
}

// keepNoting tells the coordinator, in order.
func (a *Agent) keepNoting(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case text := <-a.notes:
			a.sendNote(ctx, api.Note{Node: a.id, Text: text})
		}
	}
}

func (a *Agent) sendNote(ctx context.Context, n api.Note) {
	var err error
	for range noteTries {
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		if id, addr := a.leader(); id == string(a.id) {
			_, err = a.coord.takeNote(limited, n)
		} else {
			_, err = call[struct{}](limited, a.client, addr, api.PathNote, n)
		}
		cancel()
		if err == nil || pause(ctx, notePause) != nil {
			return
		}
	}
	a.log.Warn("not in the events", "what", n.Text, "err", err)
}

// takeNote records what happened on a node.
func (c *coordinator) takeNote(ctx context.Context, n api.Note) (struct{}, error) {
	if _, _, _, leading := c.status(); !leading {
		return struct{}{}, errNotCoordinator
	}
	_, _, err := c.apply(ctx, raftfsm.Command{Kind: raftfsm.CmdNote, Node: n.Node, Why: n.Text[:min(len(n.Text), maxNote)]})
	if err != nil {
		return struct{}{}, fmt.Errorf("record a note: %w", err)
	}
	return struct{}{}, nil
}
