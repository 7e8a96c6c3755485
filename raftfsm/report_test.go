package raftfsm

import (
	"encoding/json"
	"testing"
)

// A primary that has no accounts yet must not look like one whose accounts were
// not looked at: nobody would create them.
func TestReportKeepsEmptyAccounts(t *testing.T) {
	for _, accounts := range [][]string{nil, {}, {"ha_r_a"}} {
		b, err := json.Marshal(Report{Accounts: accounts})
		if err != nil {
			t.Fatal(err)
		}
		var r Report
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		if (r.Accounts == nil) != (accounts == nil) || len(r.Accounts) != len(accounts) {
			t.Errorf("%#v became %#v", accounts, r.Accounts)
		}
	}
}

// The founder is the first member, whoever joins in the same moment.
func TestFoundedWithItsFounder(t *testing.T) {
	p := DefaultPolicy()
	var m Machine
	m.Apply(1, Command{Kind: CmdFound, Cluster: "c", Policy: &p, Member: &Member{ID: "b", Name: "n1"}})
	m.Apply(2, Command{Kind: CmdMember, Member: &Member{ID: "a", Name: "n2"}})
	if m.State.Founder != "b" || len(m.State.Members) != 2 {
		t.Errorf("founder %s, members %+v", m.State.Founder, m.State.Members)
	}
}
