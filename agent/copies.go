package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/wire"
	"ha/raftfsm"
)

// A rebuild is asked for like a switchover: what is recorded is done by the agents,
// whoever coordinates. How far it is stands in the recipient's reports, which the
// coordinator has; how it ended is in the state.

const (
	// backBound is how long a rebuilt node is waited for to acknowledge again before its
	// rebuild is called done if it follows, and failed if it does not.
	backBound = time.Minute
	// followBound is how long one that follows is waited for to catch up. Later it is
	// history: how the node is then is not for its rebuild to tell.
	followBound = 10 * time.Minute
)

func (a *Agent) copies(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathRebuild, operate(a, api.PathRebuild, a.coord.askRebuild))
	mux.HandleFunc("POST "+api.PathRebuildCancel, operate(a, api.PathRebuildCancel, a.coord.cancelRebuild))
	mux.HandleFunc("GET "+api.PathRebuild, a.rebuilds)
}

// rebuilds tells of all copies: the coordinator with their progress, without one each
// agent what it knows.
func (a *Agent) rebuilds(w http.ResponseWriter, r *http.Request) {
	if s, v, doing, leading := a.coord.status(); leading {
		reply(w, rebuildsOf(&s, &v, doing, a.cfg.Name, time.Now()), nil)
		return
	}
	doing := "no coordinator is elected"
	if id, addr := a.leader(); id != "" && id != string(a.id) && wire.PeerName(r.TLS) == clientName {
		ctx, cancel := context.WithTimeout(r.Context(), statusBound)
		out, err := call[api.Rebuilds](ctx, a.client, addr, api.PathRebuild, nil)
		cancel()
		if err == nil {
			reply(w, out, nil)
			return
		}
		doing = "the coordinator does not answer"
	}
	s := a.fsm.State()
	reply(w, rebuildsOf(&s, &raftfsm.View{}, doing, a.cfg.Name, time.Now()), nil)
}

// askRebuild records a rebuild, or says what it would do.
func (c *coordinator) askRebuild(ctx context.Context, in api.AskRebuild) (api.RebuildBegun, error) {
	var b api.RebuildBegun
	index, err := c.record(ctx, func(s *raftfsm.State, v *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error) {
		to, err := findNode(s, in.Node)
		if err != nil {
			return nil, raftfsm.Refusal{}, err
		}
		wish := raftfsm.Wish{Recipient: to.ID, Copying: in.Copying, By: in.By}
		if in.From != "" {
			from, err := findNode(s, in.From)
			if err != nil {
				return nil, raftfsm.Refusal{}, err
			}
			wish.From = from.ID
		}
		b = api.RebuildBegun{Node: to.ID, Name: to.Name, Seen: lastEvent(s), Choice: []string{}, Plan: []string{}}
		if old, ok := s.Wish(to.ID); ok && in.Seen != 0 && old.Index > in.Seen && old.By == in.By {
			b.Index = old.Index // the first answer was lost
			return nil, raftfsm.Refusal{}, nil
		}
		wish, cands, no := raftfsm.PlanRebuild(s, v, wish)
		for _, d := range cands {
			b.Choice = append(b.Choice, d.Text)
		}
		if no.Code != "" {
			return nil, no, nil
		}
		b.Donor = s.Name(cands[0].Node)
		b.Plan = copyWords(s, wish, b.Donor)
		if in.DryRun {
			return nil, raftfsm.Refusal{}, nil
		}
		return &raftfsm.Command{Kind: raftfsm.CmdWish, Wish: &wish}, raftfsm.Refusal{}, nil
	})
	if index != 0 {
		b.Index = index
	}
	return b, err
}

// copyWords says what a rebuild does, step by step.
func copyWords(s *raftfsm.State, w raftfsm.Wish, donor string) []string {
	name := s.Name(w.Recipient)
	var plan []string
	say := func(format string, args ...any) { plan = append(plan, fmt.Sprintf(format, args...)) }
	if _, acker := s.Acker(w.Recipient); acker {
		say("%s leaves the ack set", name)
	}
	if w.InPlace {
		say("mysqld of %s is stopped and its data are removed: until the copy is whole it has none", name)
	}
	beside := "beside its own, which are not touched"
	if w.InPlace {
		beside = "by a server that nobody else reaches"
	}
	slow := ""
	if w.Throttle > 0 {
		slow = fmt.Sprintf(", at %d MB/s at most", (w.Throttle+1<<20-1)>>20)
	}
	by := ""
	if w.Engine.Streams() {
		by = " by " + string(w.Engine)
		if beside = "beside its own, which are not touched"; w.InPlace {
			beside = "in their place"
		}
	}
	say("the data of %s are copied to %s%s, %s%s", donor, name, by, beside, slow)
	say("mysqld of %s is stopped, the copy is put in place by renaming it, and mysqld is started on it under a new server_uuid", name)
	say("it follows %s and acknowledges again", s.Name(s.Primary))
	switch {
	case w.InPlace:
	case s.Policy.RebuildKeepOld:
		say("its old data are kept until the next copy (rebuild_keep_old)")
	default:
		say("its old data are removed once the copy holds all of them; what nobody else has is kept")
	}
	return plan
}

// cancelRebuild ends what was asked for, or is done by itself.
func (c *coordinator) cancelRebuild(ctx context.Context, in api.AskRebuild) (api.RebuildBegun, error) {
	var b api.RebuildBegun
	index, err := c.record(ctx, func(s *raftfsm.State, _ *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error) {
		m, err := findNode(s, in.Node)
		if err != nil {
			return nil, raftfsm.Refusal{}, err
		}
		b = api.RebuildBegun{Node: m.ID, Name: m.Name, Seen: lastEvent(s), Choice: []string{}, Plan: []string{}}
		_, wished := s.Wish(m.ID)
		if _, leased := s.Rebuild(m.ID); !wished && !leased {
			b.Already, b.Text = true, m.Name+" is not being rebuilt"
			return nil, raftfsm.Refusal{}, nil
		}
		why := ""
		if in.By != "" {
			why = "by " + in.By
		}
		return &raftfsm.Command{Kind: raftfsm.CmdCancel, Node: m.ID, Why: why}, raftfsm.Refusal{}, nil
	})
	b.Index = index
	return b, err
}

// rebuildsOf tells of all copies.
func rebuildsOf(s *raftfsm.State, v *raftfsm.View, doing, self string, now time.Time) api.Rebuilds {
	out := api.Rebuilds{Rebuilds: []api.RebuildStatus{}, Source: self, LastSeen: lastEvent(s)}
	for _, m := range s.Members {
		st := api.RebuildStatus{Node: m.ID, Name: m.Name, ETA: -1}
		w, wished := s.Wish(m.ID)
		r, leased := s.Rebuild(m.ID)
		i := slices.IndexFunc(s.Rebuilt, func(o raftfsm.Rebuilt) bool { return o.Recipient == m.ID })
		switch {
		case leased:
			st.Donor, st.Copying, st.Wish, st.Why, st.By = s.Name(r.Donor), r.Copying, r.Wish, r.Why, w.By
			st.Phase, st.Tries = "prepare", m.RebuildsFailed
			if rep := v.Node(m.ID).Report; rep != nil {
				fromRecipient(&st, r, rep.Rebuild)
			}
		case wished:
			st.Copying, st.Wish, st.By, st.Phase, st.Tries = w.Copying, w.Index, w.By, api.PhaseWaiting, m.RebuildsFailed
			if st.Doing = "a donor"; strings.HasPrefix(doing, m.Name+" ") {
				st.Doing = doing
			}
			if w.Failed != "" {
				st.Last = "the copy of " + s.Name(w.Failed) + " failed"
			}
		case i >= 0:
			ended(&st, s, v, s.Rebuilt[i], now)
		default:
			continue
		}
		out.Rebuilds = append(out.Rebuilds, st)
	}
	slices.SortFunc(out.Rebuilds, func(a, b api.RebuildStatus) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// fromRecipient fills in what the recipient says of its copy.
func fromRecipient(st *api.RebuildStatus, r raftfsm.Rebuild, rb *raftfsm.RebuildReport) {
	if rb == nil || rb.Index != r.Index {
		return
	}
	st.Phase, st.Bytes, st.Total, st.Rate = rb.Phase, rb.Bytes, rb.Total, rb.Rate
	if rb.Phase == raftfsm.CopyRunning && rb.Rate > 0 && rb.Total >= rb.Bytes {
		st.ETA = (rb.Total - rb.Bytes) * 1000 / rb.Rate
	}
}

// ended says how a copy ended. One that is in place is done when its node acknowledges
// again, or will not.
func ended(st *api.RebuildStatus, s *raftfsm.State, v *raftfsm.View, r raftfsm.Rebuilt, now time.Time) {
	st.Donor, st.Wish, st.Err, st.Canceled = s.Name(r.Donor), r.Wish, r.Err, r.Canceled
	if r.From > 0 {
		st.TookMS = r.At - r.From
	}
	st.Phase, st.Done, st.OK = api.PhaseDone, true, r.OK
	switch {
	case r.OK:
	case r.InPlace:
		st.Holds = "its old data may be gone, and it may have none: rebuild it again"
	default:
		st.Holds = "it has its old data"
	}
	since := now.Sub(time.UnixMilli(r.At))
	if _, acker := s.Acker(r.Recipient); !r.OK || acker || s.KPolicy() == 0 || since > followBound || r.Recipient == s.Primary {
		return
	}
	doing, stands, behind := follows(v.Node(r.Recipient).Report, s)
	switch {
	case since <= backBound || behind:
		st.Phase, st.Done, st.OK, st.Doing = api.PhaseFollowing, false, false, doing
	case stands:
		st.OK, st.Err, st.Holds = false, "it was copied and does not follow: "+doing, "the copy is in place"
	}
}

// follows says how a rebuilt node gets on: whether something keeps it from following,
// and whether it is only too far behind to acknowledge.
func follows(r *raftfsm.Report, s *raftfsm.State) (doing string, stands, behind bool) {
	switch {
	case r == nil: // by an agent that does not coordinate
		return "it catches up", false, false
	case r.Mysqld != raftfsm.MysqldRunning:
		return "its mysqld does not run" + colon(r.MysqldErr), true, false
	case r.Replica == nil:
		return "it does not replicate", true, false
	case r.Replica.IOError != "" && !r.Replica.IORunning:
		return r.Replica.IOError, true, false
	case r.Replica.SQLError != "":
		return r.Replica.SQLError, true, false
	case !r.Replica.IORunning || !r.Replica.SQLRunning:
		return "its replication does not run", true, false
	}
	return "it catches up", false, r.Replica.Lag > s.Policy.MaxAckerLag
}
