package mysqlctl_test

import (
	"context"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// An account that is being made, and waits for its ack, holds the lock on the cache
// of privileges: what the agent needs then must not need that.
func TestAWaitingAccountDoesNotHoldUpTheAgent(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 1, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, enough)
	for _, n := range nodes { // as far as the agents' rights are concerned
		if got := n.MustStatus().Problems; len(got) > 0 {
			t.Error(got)
		}
	}
	_, err := r.SealReplica(ctx)
	must(t, err)
	waits(t, p, "CREATE USER waits IDENTIFIED BY 'x'")
	short := func() context.Context { return mysqltest.Ctx(t, 300*time.Millisecond) }
	const quick = 200 * time.Millisecond
	within(t, quick, "status", func() { _, err = p.Status(short()); must(t, err) })
	within(t, quick, "position", func() { _, err = p.Position(short()); must(t, err) })
	within(t, quick, "blockers", func() {
		bs, err := p.Blockers(short())
		if err != nil || len(bs) != 1 || bs[0].What != mysqlctl.BlockerCommit {
			t.Errorf("blockers %v, %v", bs, err)
		}
	})
	within(t, quick, "poison", func() { must(t, p.Poison(short())) })
	within(t, quick, "configure", func() { must(t, p.ConfigureSource(short(), 1)) })
	within(t, quick, "seal", func() { _, err = p.SealReplica(short()); must(t, err) })
	within(t, quick, "kill clients", func() { must(t, p.KillClients(short())) })
	within(t, time.Second, "fence", func() {
		err := p.Fence(short())
		mustBe(t, err, mysqlctl.ErrNotFenced)
		mustBe(t, err, context.DeadlineExceeded)
	})
	if st := p.MustStatus(); st.SuperReadOnly || st.Waiting != 1 {
		t.Errorf("after a fence that failed: super_read_only %v, %d wait", st.SuperReadOnly, st.Waiting)
	}
	within(t, 2*time.Second, "let it go", func() { must(t, p.ConfigureSource(ctx, 0)) })
	mysqltest.Eventually(t, enough, "none waits", func() bool { return p.MustStatus().Waiting == 0 })
}
