package agent

import (
	"ha/agent/node"
	"ha/agent/purge"
	"ha/raftfsm"
)

const purgeHint = "start the member that it names, or take it out (ha remove); of the archive status says more"

// openPurger makes what purges the binary logs of this node's server.
func (a *Agent) openPurger(c *node.Config) {
	if server, ok := c.Mysqld.(purge.Server); ok {
		a.purger.Store(purge.New(purge.Config{Server: server, Holders: a.holders, Note: a.note, Log: a.log}))
	}
}

// holders are the other members with a mysqld, as far as this node's copy of the state
// says, and its archive. A checkpoint is a lower bound: one that is out of date keeps
// more. Of a member that is being copied anew it says nothing of what it will have.
func (a *Agent) holders() []purge.Holder {
	s := a.fsm.State()
	var out []purge.Holder
	for _, m := range s.DataMembers() {
		if m.ID == a.id {
			continue
		}
		h := purge.Holder{Name: m.Name}
		if _, leased := s.Rebuild(m.ID); !leased {
			h.Has = s.Checkpoint(m.ID)
		}
		out = append(out, h)
	}
	if ar := a.archive.Load(); ar != nil {
		out = append(out, purge.Holder{Name: "the archive", Has: ar.Status().Has, Archive: true})
	}
	return out
}

// purgeProblems go into this node's reports.
func (a *Agent) purgeProblems() []raftfsm.Problem {
	if p := a.purger.Load(); p != nil {
		if text := p.Problem(); text != "" {
			return []raftfsm.Problem{{Code: purge.CodeKept, Text: text}}
		}
	}
	return nil
}
