package raftfsm

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"ha/mysqlctl/gtid"
)

// drawCommand makes a command that is often, but not always, one that fits.
func drawCommand(t *rapid.T, s *State) Command {
	node := func(label string) NodeID {
		return NodeID(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, label))
	}
	uuid := func(id NodeID) string {
		if m, ok := s.Member(id); ok && m.ServerUUID != "" && rapid.IntRange(0, 9).Draw(t, "its uuid") > 0 {
			return m.ServerUUID
		}
		return uuidA
	}
	set := func() gtid.Set {
		return gtid.MustParse(fmt.Sprintf("%s:1-%d", uuidA, rapid.IntRange(1, 9).Draw(t, "gtid")))
	}
	ackers := func() []Acker {
		out := without(s.Ackers, "")
		switch rapid.IntRange(0, 3).Draw(t, "ackers") {
		case 0:
			out = without(out, node("leaves"))
		case 1:
			if id := node("enters"); len(without(out, id)) == len(out) {
				out = append(out, Acker{id, uuid(id)})
			}
		}
		return out
	}
	c := Command{On: s.Version}
	if rapid.IntRange(0, 9).Draw(t, "old") == 0 {
		c.On = max(c.On, 1) - 1
	}
	c.Kind = rapid.SampledFrom([]Kind{CmdFound, CmdMember, CmdMember, CmdRemoveMember, CmdPolicy, CmdRevoke, CmdPromote, CmdPromote, CmdPromote,
		CmdSettle, CmdSettle, CmdIntent, CmdIntent, CmdAcks, CmdAcks, CmdAcks, CmdCheckpoint, CmdRebuild, CmdRebuildEnd}).Draw(t, "kind")
	switch c.Kind {
	case CmdFound, CmdPolicy:
		p := DefaultPolicy()
		p.Acks = rapid.IntRange(-1, 2).Draw(t, "acks")
		c.Cluster, c.Policy = "x", &p
	case CmdMember:
		id := node("member")
		c.Member = &Member{ID: id, Name: string(id), Witness: id == "d", ServerUUID: rapid.SampledFrom([]string{uuidA, uuidB, uuidC}).Draw(t, "uuid")}
		if c.On == s.Version {
			c.On = 0
		}
	case CmdRemoveMember, CmdRebuildEnd:
		c.Node = node("node")
	case CmdRevoke, CmdSettle:
		c.Epoch = s.Epoch
	case CmdPromote:
		c.Epoch, c.Primary = s.Epoch+uint64(rapid.IntRange(0, 9).Draw(t, "epoch")/9*2+1), node("primary")
		c.PrimaryUUID, c.Ackers, c.Floor = uuid(c.Primary), ackers(), s.Floor.Union(set())
		c.K = rapid.IntRange(0, len(c.Ackers)).Draw(t, "k")
		if rapid.IntRange(0, 9).Draw(t, "less") == 0 {
			c.Floor = set()
		}
	case CmdIntent:
		switch rapid.IntRange(0, 2).Draw(t, "intent") {
		case 0:
			c.Intent = &Intent{Kind: IntentRemove, Node: node("leaves")}
		case 1:
			c.Intent = &Intent{Kind: IntentRaise, K: s.K + 1}
		}
	case CmdAcks:
		c.Ackers, c.K = ackers(), max(0, s.K+rapid.IntRange(-1, 1).Draw(t, "k"))
	case CmdCheckpoint:
		c.Checkpoints = []Checkpoint{{node("node"), set()}}
	case CmdRebuild:
		c.Rebuild = &Rebuild{Recipient: node("to"), Donor: node("from")}
	}
	return c
}

// TestApplyKeepsItsInvariants applies any commands in any order.
func TestApplyKeepsItsInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m, twin Machine
		primaries := map[uint64]NodeID{}
		for i := range rapid.IntRange(1, 60).Draw(t, "commands") {
			before := m.State.Clone()
			c := drawCommand(t, &m.State)
			decoded, err := Decode(c.Encode())
			if err != nil {
				t.Fatal(err)
			}
			r := m.Apply(uint64(i+1), decoded)
			if rapid.IntRange(0, 9).Draw(t, "restart") == 0 { // the twin goes through a snapshot
				b, err := twin.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				twin = Machine{}
				if err := twin.Restore(b); err != nil {
					t.Fatal(err)
				}
			}
			if rt := twin.Apply(uint64(i+1), c); rt != r {
				t.Fatalf("%s: %+v here, %+v there", c.Kind, r, rt)
			}
			a, _ := m.Snapshot()
			b, _ := twin.Snapshot()
			if !bytes.Equal(a, b) {
				t.Fatalf("after %s the states differ:\n%s\n%s", c.Kind, a, b)
			}
			checkStep(t, &before, &m.State, c, r)
			if s := &m.State; s.Primary != "" {
				if p, ok := primaries[s.Epoch]; ok && p != s.Primary {
					t.Fatalf("epoch %d has two primaries", s.Epoch)
				}
				primaries[s.Epoch] = s.Primary
			}
		}
	})
}

func checkStep(t *rapid.T, old, s *State, c Command, r Result) {
	switch {
	case r.Dropped != "":
		if old.Version != s.Version || old.AuthIndex != s.AuthIndex {
			t.Fatalf("a dropped %s changed the version", c.Kind)
		}
	case s.Epoch < old.Epoch || s.Epoch > old.Epoch+1:
		t.Fatalf("epoch %d after %d", s.Epoch, old.Epoch)
	case s.Epoch == old.Epoch+1 && (c.Kind != CmdPromote || old.Phase != PhaseRevoke):
		t.Fatalf("%s in phase %q made a new epoch", c.Kind, old.Phase)
	case s.AuthIndex < old.AuthIndex || s.PhaseIndex < old.PhaseIndex:
		t.Fatalf("an index went back")
	case !s.Floor.Contains(old.Floor):
		t.Fatalf("the floor fell")
	case s.K < 0 || s.K > len(s.Ackers):
		t.Fatalf("k = %d of %d", s.K, len(s.Ackers))
	case s.Epoch == old.Epoch && Need(s.Ackers, s.K) < Need(old.Ackers, old.K) && old.Intent == nil:
		t.Fatalf("%s lowered need without an intent", c.Kind)
	case s.Intent != nil && s.Phase != PhaseSettled:
		t.Fatalf("an intent in phase %q", s.Phase)
	}
	for _, a := range s.Ackers {
		m, ok := s.Member(a.Node)
		if _, leased := s.Rebuild(a.Node); !ok || m.Witness || leased || a.Node == s.Primary {
			t.Fatalf("acker %s: member %v, witness %v, leased %v, primary %s", a.Node, ok, m.Witness, leased, s.Primary)
		}
	}
	for _, b := range s.Rebuilds {
		if b.Recipient == s.Primary {
			t.Fatalf("the primary is being rebuilt")
		}
	}
	for _, p := range old.Checkpoints {
		om, _ := old.Member(p.Node)
		nm, ok := s.Member(p.Node)
		if ok && om.ServerUUID == nm.ServerUUID && c.Kind != CmdRebuildEnd && !s.Checkpoint(p.Node).Contains(p.Set) {
			t.Fatalf("the checkpoint of %s fell", p.Node)
		}
	}
}
