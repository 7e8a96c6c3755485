package raftfsmtest

import (
	"maps"
	"slices"

	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// kept is a data directory that was replaced.
type kept struct {
	data     *Mysqld
	position gtid.Set
}

// image is what CLONE takes of a server at one moment.
func (m *Mysqld) image() *Mysqld {
	return &Mysqld{w: m.w, node: m.node, rows: maps.Clone(m.rows), effects: maps.Clone(m.effects), executed: m.executed,
		cluster: m.cluster, accounts: maps.Clone(m.accounts)}
}

// rebuild copies the donor's data beside the own.
func (t *task) rebuild() {
	a, o := t.a, t.order
	if a.rebuild != nil && a.rebuild.Index == o.Lease {
		t.ok()
		return
	}
	a.rebuild, a.image = &raftfsm.RebuildReport{Index: o.Lease, Phase: raftfsm.CopyRunning}, nil
	run, r := a.run, a.rebuild
	a.w.after(a.w.jitter(500, 3000), func() {
		if a.run != run || !a.up || a.rebuild != r || r.Err != "" {
			return
		}
		d := a.w.mysqld(o.Source.Node)
		if d == nil || !d.usable() || !a.w.linked(a.id, o.Source.Node) {
			r.Err = "donor not reached"
			return
		}
		a.image = d.image()
		r.Phase = raftfsm.CopyReady
		a.report(nil)
	})
	t.ok()
}

// swap puts the copy in the place of the data.
func (t *task) swap() {
	a, m, o := t.a, t.a.md, t.order
	r := a.rebuild
	switch {
	case r == nil || r.Index != o.Lease || r.Err != "" || !r.Done && a.image == nil:
		t.fail(raftfsm.CodeFailed, "there is no copy")
		return
	case r.Done:
		t.ok()
		return
	case a.role == rolePrimary && a.reign >= o.Token.Epoch, a.armed, m.up && !m.sro:
		t.fail(raftfsm.CodeFailed, "the primary is not rebuilt")
		return
	}
	a.swapIn(a.image.node)
	t.ok()
}

func (a *Agent) swapIn(from raftfsm.NodeID) {
	m, w := a.md, a.w
	w.say("  data of %s replaced by a copy of %s", a.id, from)
	if acker, ok := w.machine.State.Acker(a.id); ok && acker.ServerUUID == m.uuid {
		w.violate("S7: the data of %s are replaced while it is in the ack set", a.id)
	}
	position := m.executed.Union(m.received).Union(m.loggedS)
	old := &kept{position: position, data: &Mysqld{w: w, node: m.node, uuid: m.uuid, rows: m.rows, logged: m.logged, relay: m.relay, received: m.received}}
	m.kill()
	m.copyOf(a.image)
	if a.old != nil {
		a.kept = append(a.kept, a.old)
	}
	if a.old = old; w.Mutant("old-data-removed") {
		a.old = nil
		w.dropped(old)
	}
	a.role, a.reign, a.image = roleNone, 0, nil
	a.rebuild.Phase, a.rebuild.Done = "start", true
	a.report(nil)
}

// dropOld removes old data once the new ones hold all of them.
func (a *Agent) dropOld() {
	whole := func(k *kept) bool { return a.md.usable() && a.md.executed.Contains(k.position) }
	if a.old != nil && whole(a.old) {
		a.w.dropped(a.old)
		a.old = nil
	}
	a.kept = slices.DeleteFunc(a.kept, func(k *kept) bool {
		if !whole(k) {
			return false
		}
		a.w.dropped(k)
		return true
	})
}

// dropped is S7: what is removed is not the last of it.
func (w *World) dropped(k *kept) {
	for _, r := range w.rows {
		if k.data.has(r) {
			w.checkLastCopy(k.data, r)
		}
	}
}

// discard throws away what was received, which is not to be the last of it.
func (m *Mysqld) discard() {
	var dropped []*Row
	for _, r := range m.w.rows {
		if m.has(r) {
			dropped = append(dropped, r)
		}
	}
	m.relay, m.received = nil, gtid.Set{}
	for _, r := range dropped {
		if !m.has(r) {
			m.w.checkLastCopy(m, r)
		}
	}
}

// keptBy says that some node has the row in data that it keeps, other than these.
func (w *World) keptBy(r *Row, but *Mysqld) bool {
	has := func(k *kept) bool { return k != nil && k.data != but && k.data.has(r) }
	for _, id := range w.order {
		if a := w.agents[id]; has(a.old) || slices.ContainsFunc(a.kept, has) {
			return true
		}
	}
	return false
}

// Rebuild is a person's wish that a node be copied anew.
func (w *World) Rebuild(id, from raftfsm.NodeID) raftfsm.Refusal {
	c := w.leader
	if c == nil {
		return raftfsm.Refusal{Code: "no coordinator"}
	}
	s := w.machine.State.Clone()
	v := c.tick(w).View(&s, w.servers())
	wish, lines, no := raftfsm.PlanRebuild(&s, &v, raftfsm.Wish{Recipient: id, From: from})
	for _, line := range lines {
		w.say("  plan: %s", line.Text)
	}
	if no.Code != "" {
		w.say("  refused: %s %s", no.Code, no.Text)
		return no
	}
	w.append(raftfsm.Command{Kind: raftfsm.CmdWish, On: s.Version, Wish: &wish})
	w.kick(c)
	return no
}

// Cancel is a person's wish that it be not.
func (w *World) Cancel(id raftfsm.NodeID) {
	if w.leader != nil {
		w.append(raftfsm.Command{Kind: raftfsm.CmdCancel, On: w.machine.State.Version, Node: id, Why: "a person"})
		w.kick(w.leader)
	}
}
