package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"time"

	"ha/raftfsm"
)

// serveNode runs the node side once the group knows this node, and keeps what
// the command line needs on disk.
func (a *Agent) serveNode(ctx context.Context) error {
	s, err := a.awaitMembership(ctx)
	if err != nil {
		return nil //nolint:nilerr // the agent is being stopped
	}
	n, err := a.newNode(s)
	if err != nil {
		return err
	}
	defer func() {
		if err := n.Close(); err != nil {
			a.log.Debug("close node", "err", err)
		}
	}()
	a.node.Store(&n)
	go a.keepPeers(ctx)
	if !a.cfg.Witness {
		donor := a.newDonor(s)
		a.donor.Store(donor)
		go donor.Tidy(ctx)
		copier := a.newCopier(s)
		copier.Tidy()
		a.copier.Store(copier)
		go a.keepEngines(ctx)
		go a.keepMarks(ctx)
	}
	if archive := a.archive.Load(); archive != nil {
		defer beside(ctx, archive.Run)()
	}
	if purger := a.purger.Load(); purger != nil {
		defer beside(ctx, purger.Run)()
	}
	return n.Run(ctx)
}

// beside runs something until the function that it returns has ended it.
func beside(ctx context.Context, run func(context.Context)) (end func()) {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() { run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

func (a *Agent) keepMarks(ctx context.Context) {
	for pause(ctx, markEvery) == nil {
		a.keepMark()
	}
}

// awaitMembership waits until this node's copy of the state has this node in it.
func (a *Agent) awaitMembership(ctx context.Context) (raftfsm.State, error) {
	for {
		s, changed := a.fsm.Watch()
		if _, ok := s.Member(a.id); ok && s.Cluster != "" {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-changed:
		}
	}
}

// peersFile lets the command line find the cluster when the local agent is down.
const peersFile = "peers.json"

// keepPeers writes the members' addresses whenever they change.
func (a *Agent) keepPeers(ctx context.Context) {
	var last []string
	for {
		s, changed := a.fsm.Watch()
		var now []string
		for _, m := range s.Members {
			now = append(now, m.Address)
		}
		if !slices.Equal(last, now) {
			if err := writePeers(filepath.Join(a.cfg.DataDir, peersFile), now); err != nil {
				a.log.Warn("peers not written", "err", err)
			}
			last = now
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			_ = pause(ctx, 100*time.Millisecond) // many changes, one write
		}
	}
}

func writePeers(path string, addrs []string) error {
	b, err := json.Marshal(addrs)
	if err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
