package raftfsm

import (
	"reflect"
	"testing"

	"ha/mysqlctl/gtid"
)

const (
	uuidA = "aaaaaaaa-0000-0000-0000-000000000000"
	uuidB = "bbbbbbbb-0000-0000-0000-000000000000"
	uuidC = "cccccccc-0000-0000-0000-000000000000"
	uuidD = "dddddddd-0000-0000-0000-000000000000" // of a server that is gone
)

// reigning is a machine in which a reigns alone and settled, with b and c as
// members.
func reigning(t *testing.T) *tester {
	t.Helper()
	m := &tester{T: t}
	p := DefaultPolicy()
	m.must(Command{Kind: CmdFound, Cluster: "x", Policy: &p})
	m.must(Command{Kind: CmdMember, Member: &Member{ID: "a", Name: "a", ServerUUID: uuidA}})
	m.must(Command{Kind: CmdMember, Member: &Member{ID: "b", Name: "b", ServerUUID: uuidB}})
	m.must(Command{Kind: CmdMember, Member: &Member{ID: "c", Name: "c", ServerUUID: uuidC}})
	m.must(Command{Kind: CmdRevoke})
	m.must(Command{Kind: CmdPromote, Epoch: 1, Primary: "a", PrimaryUUID: uuidA})
	m.must(Command{Kind: CmdSettle, Epoch: 1})
	return m
}

type tester struct {
	*testing.T
	Machine
	index uint64
}

// apply commits a command decided on the present version.
func (m *tester) apply(c Command) string {
	m.index++
	if c.Kind != CmdMember {
		c.On = m.State.Version
	}
	return m.Machine.Apply(m.index, c).Dropped
}

func (m *tester) must(c Command) {
	m.Helper()
	if why := m.apply(c); why != "" {
		m.Fatalf("%s was dropped: %s", c.Kind, why)
	}
}

func (m *tester) refused(c Command) {
	m.Helper()
	if why := m.apply(c); why == "" {
		m.Fatalf("%s was not dropped", c.Kind)
	}
}

var (
	ackB, ackC = Acker{"b", uuidB}, Acker{"c", uuidC}
)

// A field of a member is its host's to configure, or noted by the group. One that were
// neither would be lost when an agent is started, or have it join for ever.
func TestMemberIsConfiguredOrNoted(t *testing.T) {
	var old, configured Member
	for _, name := range []string{"ID", "Name", "Address", "Witness", "MySQLHost", "MySQLPort", "Priority", "NoPromote", "Zone"} {
		set(t, &configured, name)
	}
	fields := reflect.VisibleFields(reflect.TypeFor[Member]())
	for _, f := range fields {
		set(t, &old, f.Name)
	}
	if got := configured.Noted(old); got != old {
		t.Errorf("%+v, want %+v", got, old)
	}
	if got := (Member{}).Noted(old); got.ID != "" || got.Zone != "" {
		t.Errorf("noted what is configured: %+v", got)
	}
}

// set gives a field a value that is not its zero value.
func set(t *testing.T, m *Member, name string) {
	t.Helper()
	switch f := reflect.ValueOf(m).Elem().FieldByName(name); f.Kind() {
	case reflect.String:
		f.SetString("x")
	case reflect.Int:
		f.SetInt(7)
	case reflect.Bool:
		f.SetBool(true)
	default:
		t.Fatalf("no value for %s of kind %s", name, f.Kind())
	}
}

func TestNeedIsLoweredByIntentOnly(t *testing.T) {
	m := reigning(t)
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}})
	m.refused(Command{Kind: CmdAcks, Ackers: nil}) // also while k is 0: it may be raised later
	m.refused(Command{Kind: CmdAcks, Ackers: []Acker{ackB}, K: 1})
	m.must(Command{Kind: CmdIntent, Intent: &Intent{Kind: IntentRaise, K: 1}})
	m.refused(Command{Kind: CmdAcks, Ackers: []Acker{ackB, ackC}, K: 1}) // one step at a time
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}, K: 1})
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB, ackC}, K: 1})
	m.must(Command{Kind: CmdIntent, Intent: &Intent{Kind: IntentRemove, Node: "b"}})
	m.refused(Command{Kind: CmdAcks, Ackers: []Acker{ackB}, K: 1})
	m.refused(Command{Kind: CmdAcks, Ackers: []Acker{ackC}, K: 0})
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackC}, K: 1})
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackC}, K: 0}) // raises need
}

// A founder reigns without acks at first. What it holds beyond its successor
// after a failover from k = 1 is no last copy of anything.
func TestReignThatBecameSynchronousIsNotAsync(t *testing.T) {
	m := reigning(t)
	async := func(want bool) {
		t.Helper()
		if h := m.State.History; h[len(h)-1].Async != want {
			t.Fatalf("async is %v", !want)
		}
	}
	async(true)
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}})
	m.must(Command{Kind: CmdIntent, Intent: &Intent{Kind: IntentRaise, K: 1}})
	async(true)
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}, K: 1})
	async(false)
	m.must(Command{Kind: CmdAcks, Ackers: []Acker{ackB}, K: 0})
	async(true)
}

func TestCheckpointNeverFalls(t *testing.T) {
	m := reigning(t)
	at := func(s string) {
		t.Helper()
		if got := m.State.Checkpoint("b"); !got.Equal(gtid.MustParse(s)) {
			t.Fatalf("checkpoint is %q, not %q", got, s)
		}
	}
	m.must(Command{Kind: CmdCheckpoint, Checkpoints: []Checkpoint{{"b", gtid.MustParse(uuidA + ":1-9")}}})
	m.must(Command{Kind: CmdCheckpoint, Checkpoints: []Checkpoint{{"b", gtid.MustParse(uuidA + ":1-3")}}})
	at(uuidA + ":1-9")
	m.must(Command{Kind: CmdMember, Member: &Member{ID: "b", Name: "b", ServerUUID: uuidC}})
	at("")
}

// A description that was decided on an older state does not undo a newer one.
func TestMemberDecidedOnAnOlderVersion(t *testing.T) {
	m := reigning(t)
	old := m.State.Version
	m.must(Command{Kind: CmdMember, Member: &Member{ID: "b", Name: "b", Address: "new:1", ServerUUID: uuidB}})
	if m.Apply(99, Command{Kind: CmdMember, On: old, Member: &Member{ID: "b", Name: "b", Address: "old:1", ServerUUID: uuidC}}).Dropped == "" {
		t.Fatal("not dropped")
	}
}

func TestUnknownCommandPanics(t *testing.T) {
	m := reigning(t)
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	m.apply(Command{Kind: "of the future"})
}

// A note is an event and nothing else, whatever version it was made on, and once.
func TestNote(t *testing.T) {
	m := reigning(t)
	before := m.State.Clone()
	note := Command{Kind: CmdNote, Node: "b", Why: "something happened", On: 99}
	m.must(note)
	if r := m.Machine.Apply(90, note); r.Dropped == "" {
		t.Error("noted twice")
	}
	if r := m.Machine.Apply(91, Command{Kind: CmdNote, Node: "z", Why: "x"}); r.Dropped == "" {
		t.Error("a stranger's was noted")
	}
	last := m.State.Events[len(m.State.Events)-1]
	if last.Text != m.State.Name("b")+": something happened" || len(m.State.Events) != len(before.Events)+1 {
		t.Errorf("%+v", m.State.Events)
	}
	m.State.Events = before.Events
	if m.State.Version != before.Version || m.State.AuthIndex != before.AuthIndex {
		t.Error("it changed the state")
	}
}

// Of reigns that are forgotten it is known that a loss was among them: a server that
// comes back after a hundred more may hold the last copy of what was lost.
func TestALossIsNotForgottenWithItsReign(t *testing.T) {
	for name, tc := range map[string]struct {
		lossy, async bool
		reigns       int
		want         bool
	}{
		"no loss":               {reigns: 2 * maxHistory},
		"a loss that is known":  {lossy: true, reigns: maxHistory / 2}, // of others than this server's reign
		"a loss, the last kept": {lossy: true, reigns: maxHistory, want: true},
		"a loss":                {lossy: true, reigns: 2 * maxHistory, want: true},
		"async":                 {async: true, reigns: 2 * maxHistory, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := reigning(t)
			m.State.History[0].Async = tc.async
			for range tc.reigns {
				if tc.lossy && m.State.Epoch == 1 {
					m.must(Command{Kind: CmdRequest, Request: &Request{Kind: RequestFailover, AllowLoss: true}})
				}
				m.must(Command{Kind: CmdRevoke, Epoch: m.State.Epoch})
				m.must(Command{Kind: CmdPromote, Epoch: m.State.Epoch + 1, Primary: "b", PrimaryUUID: uuidB, Ackers: []Acker{{"c", uuidC}}, K: 1,
					Lossy: tc.lossy && m.State.Epoch == 1})
				m.must(Command{Kind: CmdSettle, Epoch: m.State.Epoch})
			}
			d := &decider{s: &m.State}
			if got := d.lossyEnd(gtid.MustParse(uuidD + ":7")); got != tc.want {
				t.Errorf("after %d reigns %v, want %v", tc.reigns, got, tc.want)
			}
		})
	}
}
