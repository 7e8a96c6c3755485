package raftfsmtest

import (
	"errors"
	"slices"

	"ha/mysqlctl/gtid"
)

var errNoCut = errors.New("no cut")

// cutTail is the cut of R9: it removes from the last binary log what keep lacks,
// and the server's uuid. What the engine has committed of it stays there.
func (m *Mysqld) cutTail(keep gtid.Set) error {
	at := slices.IndexFunc(m.binlog, func(t *Txn) bool { return !keep.Contains(t.set) })
	switch {
	case at < 0:
		return nil
	case m.up || m.starting || at < m.lastFile || !m.inUse:
		return errNoCut
	}
	for _, t := range m.binlog[at:] {
		if keep.Contains(t.set) || t.lasting && !m.w.Mutant("cut-lasting") {
			return errNoCut
		}
	}
	m.w.say("  %d transactions are cut off the binlog of %s", len(m.binlog)-at, m.node)
	for _, r := range m.w.rows {
		if slices.Contains(m.binlog[at:], r.t) && m.rows[r.t.key] == nil {
			m.w.checkLastCopy(m, r)
		}
	}
	for _, t := range m.binlog[at:] {
		delete(m.logged, t.key)
		m.loggedS = m.loggedS.Minus(t.set)
	}
	m.binlog = slices.Clone(m.binlog[:at])
	if !m.w.Mutant("cut-without-new-uuid") {
		m.uuid = m.w.newUUID(m.node)
	}
	m.free = 1
	return nil
}
