package mysqlctl_test

import (
	"testing"
	"time"

	"ha/mysqlctl/mysqltest"
)

// A primary that is handed over acknowledges its successor's commits at once, and
// whoever still asks it has an answer: switching its source side off, which blocks
// them for a second, comes later.
func TestFollowOfADeposedPrimary(t *testing.T) {
	nodes := mysqltest.Start(t, 3)
	p, q := mysqltest.Primary(t, 1, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, enough)
	p.Exec("CREATE TABLE app.handed (i INT PRIMARY KEY AUTO_INCREMENT)")
	for range 2 {
		must(t, p.Fence(ctx))
		mysqltest.Eventually(t, enough, "caught up", func() bool { return q.MustStatus().Executed.Contains(p.MustStatus().Executed) })
		_, err := q.SealReplica(ctx)
		must(t, err)
		must(t, q.ConfigureSource(ctx, 1))
		must(t, q.OpenWrites(ctx))
		began := time.Now()
		done := make(chan error, 1)
		go func() { done <- p.Follow(ctx, q.Source(), true) }()
		q.Exec("INSERT INTO app.handed VALUES ()")
		acked := time.Since(began)
		asked := time.Now()
		p.Value("SELECT @@global.read_only")
		t.Logf("first ack after %s, answer of the old primary after %s", acked, time.Since(asked))
		if acked > 700*time.Millisecond || time.Since(asked) > 100*time.Millisecond {
			t.Errorf("first ack after %s, answer of the old primary after %s", acked, time.Since(asked))
		}
		must(t, <-done)
		mysqltest.Eventually(t, enough, "applied", func() bool {
			return p.Value("SELECT COUNT(*) FROM app.handed") == q.Value("SELECT COUNT(*) FROM app.handed")
		})
		if st := p.MustStatus(); st.Source.Enabled || st.Replica.SQLState != "Yes" {
			t.Errorf("%+v", st)
		}
		p, q = q, p
	}
}
