package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ha/agent/api"
	"ha/bench/load"
	"ha/raftfsm"
)

// staleMost is the lease, and how late a fence may be (S4, S6).
const staleMost = 5*time.Second + 1500*time.Millisecond

// settleMost is how long settings may take to be right where the ack set changes.
const settleMost = 10 * time.Second

// Verdict is what the checks found after a fault.
type Verdict struct {
	Rows    load.Verdict
	Stalest time.Duration // of the reads through the virtual IP
	Healthy time.Duration // from the end of the fault until all was well
	Status  api.Status
}

// Check stops the load and sees that after a fault all holds that has to: (i) each
// acknowledged row is there once, everywhere; (ii) two servers never acknowledged,
// (iii) nor did a deposed one; (iv) no errant GTID; (v) no read through the virtual
// IP was staler than the lease allows; (vi) it is writable with the right number of
// ackers within bound; (vii) the settings of semi-sync are right everywhere; (viii)
// nothing is left over. The network must be whole and all hosts on.
func (s *Scene) Check(ctx context.Context, bound time.Duration) (Verdict, error) {
	var v Verdict
	var errs []error
	healed := time.Now()
	st, err := s.AwaitHealthy(ctx, bound)
	v.Status, v.Healthy = st, time.Since(healed)
	if err != nil {
		errs = append(errs, fmt.Errorf("(vi) not well again: %w", err))
	} else if err := s.Grow(20, 10*time.Second); err != nil {
		errs = append(errs, fmt.Errorf("(vi) not writable again: %w", err))
	}
	v.Stalest = s.stalest()
	if v.Stalest > staleMost {
		errs = append(errs, fmt.Errorf("(v) a read through the virtual IP was %s old", v.Stalest))
	}
	s.Stop()
	slices.SortStableFunc(s.past, func(a, b load.Ack) int { return a.At.Compare(b.At) })
	epochs := -1
	if end, serr := s.Status(ctx); err == nil && serr == nil { // else it may be out of date
		epochs = int(max(st.Epoch, end.Epoch) - s.epoch)
	}
	if v.Rows, err = load.Check(ctx, s.servers, s.past, epochs, 30*time.Second); err != nil {
		errs = append(errs, fmt.Errorf("(i) %w", err))
	} else if !v.Rows.OK() {
		errs = append(errs, fmt.Errorf("(i)-(iii) rows were lost, or two servers acknowledged: %s", v.Rows))
	}
	if err == nil && st.Primary != "" {
		// A replica has a transaction before the primary has its acknowledgement.
		errs = append(errs, Eventually(settleMost, func() error { return s.checkGTIDs(ctx, st) }), s.checkLeftovers(ctx), Eventually(settleMost, func() error {
			// An acker that has a lot to catch up with leaves and enters again.
			now, err := s.AwaitHealthy(ctx, settleMost)
			if err != nil {
				return err
			}
			return s.checkSettings(ctx, now)
		}))
	}
	return v, errors.Join(errs...)
}

func (s *Scene) stalest() time.Duration {
	s.reads.mu.Lock()
	defer s.reads.mu.Unlock()
	return stalest(s.reads.samples, s.Load.Acks())
}

func (s *Scene) checkGTIDs(ctx context.Context, st api.Status) error {
	var errs []error
	primary, err := s.Root(st.Primary)
	if err != nil {
		return err
	}
	defer primary.Close()
	for _, server := range s.servers {
		db, err := s.Root(server.Name)
		if err != nil {
			return err
		}
		var set string
		var held bool
		err = db.QueryRowContext(ctx, "SELECT @@global.gtid_executed").Scan(&set)
		db.Close()
		if err == nil {
			err = primary.QueryRowContext(ctx, "SELECT GTID_SUBSET(?, @@global.gtid_executed)", set).Scan(&held)
		}
		if err != nil || !held {
			errs = append(errs, fmt.Errorf("(iv) %s has GTIDs that %s lacks, and nobody says so: %s %s", server.Name, st.Primary, set, said(err)))
		}
	}
	return errors.Join(errs...)
}

func (s *Scene) checkSettings(ctx context.Context, st api.Status) error {
	var errs []error
	for _, server := range s.servers {
		db, err := s.Root(server.Name)
		if err != nil {
			return err
		}
		var ro, source, replica, noReplica bool
		var k, timeout int64
		err = db.QueryRowContext(ctx, "SELECT @@global.super_read_only, @@global.rpl_semi_sync_source_enabled, @@global.rpl_semi_sync_replica_enabled, "+
			"@@global.rpl_semi_sync_source_wait_no_replica, @@global.rpl_semi_sync_source_wait_for_replica_count, @@global.rpl_semi_sync_source_timeout").
			Scan(&ro, &source, &replica, &noReplica, &k, &timeout)
		db.Close()
		primary := server.Name == st.Primary
		if err != nil || ro == primary || source != primary || replica == primary || primary && (!noReplica || k != int64(st.AcksWanted) || timeout < 4294967295000) {
			errs = append(errs, fmt.Errorf("(vii) settings of %s (primary: %v): super_read_only %v, source %v, replica %v, wait_no_replica %v, count %d, timeout %d %s",
				server.Name, primary, ro, source, replica, noReplica, k, timeout, said(err)))
		}
	}
	return errors.Join(errs...)
}

// said is an error's text, or nothing.
func said(err error) string {
	if err == nil {
		return ""
	}
	return "(" + err.Error() + ")"
}

// stays are what may be beside the data of mysqld. A rebuild keeps what it replaced.
var stays = []string{"data", "data.old", "lost+found", "mysqld.sock", "mysqld.sock.lock", "mysqld.pid", "mysqld.log"}

// checkLeftovers waits a moment: a virtual IP goes when its lease ends, and what
// was rebuilt is cleaned up after.
func (s *Scene) checkLeftovers(ctx context.Context) error {
	err := Eventually(staleMost, func() error {
		st, err := s.Status(ctx)
		if err != nil {
			return err
		}
		self, err := s.Self(ctx, st.Coordinator)
		if err != nil {
			return err
		}
		if n := self.State; len(n.Rebuilds) > 0 || n.Request != nil || n.Intent != nil || n.Phase != raftfsm.PhaseSettled {
			return fmt.Errorf("state: phase %v, rebuilds %v, request %v, intent %v", n.Phase, n.Rebuilds, n.Request, n.Intent)
		}
		var errs []error
		for _, h := range s.Hosts {
			errs = append(errs, h.leftovers(st))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("(viii) %w", err)
	}
	return nil
}

func (h *Host) leftovers(st api.Status) error {
	var errs []error
	want := map[string]int{Agent: 1, Mysqld: 1}
	if h.Witness {
		want[Mysqld] = 0
	}
	for kind, n := range want {
		if has := len(h.PIDs(kind)); has != n {
			errs = append(errs, fmt.Errorf("%d processes %s on %s", has, kind, h.Name))
		}
	}
	if all := len(h.PIDs("")); all > want[Agent]+want[Mysqld] {
		errs = append(errs, fmt.Errorf("%d processes on %s", all, h.Name))
	}
	if !h.Witness {
		entries, err := os.ReadDir(h.Path(MySQLDisk))
		if err != nil {
			return err
		}
		for _, e := range entries {
			// What only those data hold is kept for good (S7), until a person removes it.
			kept := strings.HasPrefix(e.Name(), "data.cut") || strings.HasPrefix(e.Name(), "data.kept-")
			if !kept && !slices.Contains(stays, e.Name()) {
				errs = append(errs, fmt.Errorf("%s in %s of %s", e.Name(), MySQLDisk, h.Name))
			}
		}
	}
	has, err := h.Addresses()
	if err != nil {
		return err
	}
	for _, vip := range st.VIPs {
		if held := slices.Contains(has, vip.Address); held != (vip.Holder == h.Name) {
			errs = append(errs, fmt.Errorf("%s on %s: %v, and status says that %q has it", vip.Address, h.Name, held, vip.Holder))
		}
		if vip.Role == "primary" && vip.Holder != st.Primary {
			errs = append(errs, fmt.Errorf("%q has %s, the primary is %s", vip.Holder, vip.Address, st.Primary))
		}
	}
	return errors.Join(errs...)
}

// Addresses are those on the host's interfaces.
func (h *Host) Addresses() ([]string, error) {
	ns, err := h.netns()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	link, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer link.Close()
	list, err := link.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, a := range list {
		out = append(out, a.IP.String())
	}
	return out, nil
}
