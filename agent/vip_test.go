package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"ha/agent/api"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/vip"
)

func TestVIPErrors(t *testing.T) {
	for code, want := range map[string]int{vip.CodeCapability: api.ExitFailed, vip.CodeInterface: api.ExitFailed, vip.CodeInUse: api.ExitRefused} {
		err := vipError(&vip.Error{Code: code, Hint: "do it", Err: errNotCoordinator})
		var e *api.Error
		if !asError(err, &e) || e.Code != want || e.Word != code || e.Hint != "do it" {
			t.Errorf("%s: %+v", code, err)
		}
	}
}

func asError(err error, e **api.Error) bool {
	own, ok := err.(*api.Error) //nolint:errorlint // it is not wrapped
	*e = own
	return ok
}

func TestListening(t *testing.T) {
	v4 := writeFile(t, "tcp", `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100000A:0CEA 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0200000A:0CEA 0300000A:C000 01 00000000:00000000 00:00000000 00000000     0        0 1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
`, 0o600)
	v6 := writeFile(t, "tcp6", `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000000000000:0CEB 00000000000000000000000000000000:0000 0A
   1: 000000FD000000000000000001000000:0CEA 00000000000000000000000000000000:0000 0A
`, 0o600)
	on := listening(v4, v6, "/nonexistent")
	for _, c := range []struct {
		port int
		addr string
		want bool
	}{
		{3306, "10.0.0.1", true}, {3306, "10.0.0.2", false}, {3306, "fd00::1", true}, {3306, "fd00::2", false},
		{22, "10.0.0.9", true}, {22, "fd00::9", false}, {3307, "10.0.0.9", true}, {3307, "fd00::9", true}, {80, "10.0.0.1", false},
	} {
		if got := serves(on[c.port], netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("%s port %d: %v, with %v", c.addr, c.port, got, on[c.port])
		}
	}
}

func TestReaderOf(t *testing.T) {
	const second = time.Second
	for _, c := range []struct {
		name   string
		change func(s *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView)
		want   raftfsm.NodeID
	}{
		{"equal: by id", func(*raftfsm.State, map[raftfsm.NodeID]*raftfsm.NodeView) {}, "n2"},
		{"the one that lags less", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Report.Replica.Lag = 2 * second
		}, "n3"},
		{"a moment is no lag", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Report.Replica.Lag = second / 2
		}, "n2"},
		{"it stays where it is", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n3"].Report.VIPs[0].Held, v["n3"].Report.Replica.Lag = true, 9*second
		}, "n3"},
		{"unless that one is late", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n3"].Report.VIPs[0].Held, v["n3"].Report.Replica.Lag = true, 31*second
		}, "n2"},
		{"or silent", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) { v["n2"].Age = 2 * second }, "n3"},
		{"or its mysqld is down", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Report.Mysqld = raftfsm.MysqldDown
		}, "n3"},
		{"or it does not receive", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Report.Replica.IORunning = false
		}, "n3"},
		{"or hears nothing from the primary", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Report.VIPs[0].Held, v["n2"].Report.Replica.Silence = true, 1500*time.Millisecond
		}, "n3"},
		{"or follows another", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Report.Replica.SourceUUID = uuid3
		}, "n3"},
		{"or is being copied", func(s *raftfsm.State, _ map[raftfsm.NodeID]*raftfsm.NodeView) {
			s.Rebuilds = []raftfsm.Rebuild{{Recipient: "n2", Donor: "n3"}}
		}, "n3"},
		{"or is to leave", func(s *raftfsm.State, _ map[raftfsm.NodeID]*raftfsm.NodeView) { s.Members[1].Leaving = true }, "n3"},
		{"or has no such address", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) { v["n2"].Report.VIPs = nil }, "n3"},
		{"never the primary", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n2"].Age, v["n3"].Report.Replica = 2*second, nil
			v["n1"].Report.VIPs[0].Held = true
		}, ""},
		{"nobody is known", func(_ *raftfsm.State, v map[raftfsm.NodeID]*raftfsm.NodeView) {
			v["n1"].Report, v["n2"].Report, v["n3"].Report = nil, nil, nil
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := raftfsm.State{Policy: raftfsm.DefaultPolicy(), Primary: "n1", PrimaryUUID: uuid1}
			views := make(map[raftfsm.NodeID]*raftfsm.NodeView)
			for _, id := range []raftfsm.NodeID{"n1", "n2", "n3"} {
				s.Members = append(s.Members, raftfsm.Member{ID: id})
				views[id] = &raftfsm.NodeView{ID: id, Report: &raftfsm.Report{Mysqld: raftfsm.MysqldRunning, Executed: gtid.Set{},
					VIPs:    []raftfsm.VIPReport{{Addr: "10.0.0.101", Reader: true}},
					Replica: &raftfsm.ReplicaReport{SourceUUID: uuid1, IORunning: true, SQLRunning: true}}}
			}
			c.change(&s, views)
			var v raftfsm.View
			for _, id := range []raftfsm.NodeID{"n1", "n2", "n3"} {
				v.Nodes = append(v.Nodes, *views[id])
			}
			if got := readerOf(&s, &v); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestStatusVIPs(t *testing.T) {
	with := func(in *StatusInput, id raftfsm.NodeID, primary, reader bool) {
		in.Reports[id].Report.VIPs = []raftfsm.VIPReport{
			{Addr: "10.0.0.100", Interface: "eth0", Held: primary}, {Addr: "10.0.0.101", Reader: true, Interface: "eth1", Held: reader}}
	}
	all := func(in *StatusInput) {
		with(in, "a1", true, false)
		with(in, "a2", false, true)
		with(in, "a3", false, false)
	}
	for _, c := range []struct {
		name            string
		change          func(*StatusInput)
		primary, reader string
		issues          []string
	}{
		{"well", all, "n1", "n2", nil},
		{"nobody", func(in *StatusInput) { all(in); with(in, "a1", false, false); with(in, "a2", false, false) }, "", "", []string{IssueVIPNobody, IssueVIPNobody}},
		{"two say so", func(in *StatusInput) { all(in); with(in, "a3", true, false) }, "n1", "n2", nil},
		{"the reader is silent and another took over", func(in *StatusInput) {
			all(in)
			with(in, "a3", false, true)
			silence(in, "a2", 3*time.Second)
		}, "n1", "n3", nil},
		{"the reader is silent", func(in *StatusInput) { all(in); silence(in, "a2", 3*time.Second) }, "n1", "n2", nil},
		{"for longer than its lease", func(in *StatusInput) { all(in); silence(in, "a2", 6*time.Second) }, "n1", "", []string{IssueVIPNobody}},
		{"not configured", func(in *StatusInput) { all(in); in.Reports["a3"].Report.VIPs = nil }, "n1", "n2", []string{IssueVIPConfig, IssueVIPConfig}},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := statusOf(c.change)
			if len(st.VIPs) != 2 || st.VIPs[0].Holder != c.primary || st.VIPs[1].Holder != c.reader {
				t.Errorf("%+v", st.VIPs)
			}
			var codes []string
			for _, i := range st.Issues {
				if i.Code == IssueVIPNobody || i.Code == IssueVIPConfig {
					codes = append(codes, i.Code)
				}
			}
			if !slices.Equal(codes, c.issues) {
				t.Errorf("issues %v, want %v", codes, c.issues)
			}
		})
	}
	if st := statusOf(nil); st.VIPs != nil {
		t.Errorf("%+v", st.VIPs)
	}
}
