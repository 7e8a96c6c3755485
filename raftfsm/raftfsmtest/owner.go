package raftfsmtest

import (
	"hash/fnv"
	"math/rand/v2" //nolint:depguard // a package for tests: all chance comes from its seed

	"ha/raftfsm"
)

// owner is a process, or whatever else does things on its own: it has its chance
// to itself, so that a fault left out changes little elsewhere, and it can be
// stopped and go on later with all that has come meanwhile.
type owner struct {
	rng    *rand.Rand // nil: scripts
	frozen bool
	since  int64 // stopped
	thawed int64
	kept   []event
}

func (w *World) owner(name string) *owner {
	o := w.owners[name]
	if o == nil {
		o = &owner{}
		if w.seed != 0 {
			h := fnv.New64a()
			h.Write([]byte(name))
			o.rng = rand.New(rand.NewPCG(w.seed, h.Sum64()))
		}
		w.owners[name] = o
	}
	return o
}

func (w *World) agentOf(id raftfsm.NodeID) *owner {
	if a := w.agents[id]; a != nil {
		if a.own == nil {
			a.own = w.owner("agent " + string(id))
		}
		return a.own
	}
	return w.owner("agent " + string(id))
}

func (w *World) mysqldOf(id raftfsm.NodeID) *owner { return w.mysqld(id).own }

// as does something on behalf of an owner.
func (w *World) as(o *owner, f func()) {
	own, rng := w.own, w.rng
	w.own, w.rng = o, o.rng
	f()
	w.own, w.rng = own, rng
}

// tell makes an owner do something later.
func (w *World) tell(o *owner, d int64, f func()) {
	w.seq++
	w.events.push(event{w.now + d, w.seq, o, f})
}

// after does something later on behalf of the one who acts now.
func (w *World) after(d int64, f func()) { w.tell(w.own, d, f) }

// freeze is SIGSTOP.
func (w *World) freeze(o *owner) {
	if !o.frozen {
		o.frozen, o.since = true, w.now
	}
}

// thaw is SIGCONT: what has come meanwhile is worked off at once, in its order.
func (w *World) thaw(o *owner) {
	if !o.frozen {
		return
	}
	o.frozen, o.thawed = false, w.now
	kept := o.kept
	o.kept = nil
	for _, e := range kept {
		w.tell(o, 0, e.f)
	}
}

type event struct {
	at  int64
	seq uint64
	own *owner
	f   func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// eventHeap has the next event first.
type eventHeap []event

func (h *eventHeap) push(e event) {
	*h = append(*h, e)
	q := *h
	i := len(q) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !e.before(&q[p]) {
			break
		}
		q[i] = q[p]
		i = p
	}
	q[i] = e
}

func (h *eventHeap) pop() event {
	q := *h
	top, last := q[0], q[len(q)-1]
	q[len(q)-1] = event{}
	q = q[:len(q)-1]
	*h = q
	if len(q) == 0 {
		return top
	}
	i := 0
	for {
		c := 2*i + 1
		if c >= len(q) {
			break
		}
		if c+1 < len(q) && q[c+1].before(&q[c]) {
			c++
		}
		if !q[c].before(&last) {
			break
		}
		q[i] = q[c]
		i = c
	}
	q[i] = last
	return top
}
