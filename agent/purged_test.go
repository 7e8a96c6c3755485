package agent

import (
	"reflect"
	"testing"

	"ha/agent/archive"
	"ha/agent/purge"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
)

// The logs of a server are kept for the other data members and its own archive: for one
// that is new, or being copied anew, all of them.
func TestHolders(t *testing.T) {
	has := gtid.MustParse("00000000-0000-0000-0000-00000000000a:1-9")
	a := &Agent{id: "a", fsm: newFSM()}
	s := &a.fsm.machine.State
	s.Members = []raftfsm.Member{{ID: "a", Name: "n1"}, {ID: "b", Name: "n2"}, {ID: "c", Name: "n3"}, {ID: "d", Name: "n4"}, {ID: "w", Name: "n5", Witness: true}}
	s.Checkpoints = []raftfsm.Checkpoint{{Node: "a", Set: has}, {Node: "b", Set: has}, {Node: "d", Set: has}}
	s.Rebuilds = []raftfsm.Rebuild{{Recipient: "d", Donor: "b"}}
	want := []purge.Holder{{Name: "n2", Has: has}, {Name: "n3"}, {Name: "n4"}}
	if got := a.holders(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	a.archive.Store(archive.New(archive.Config{}))
	if got := a.holders(); !reflect.DeepEqual(got, append(want, purge.Holder{Name: "the archive", Archive: true})) {
		t.Errorf("with an archive that is not open yet: %+v", got)
	}
}
