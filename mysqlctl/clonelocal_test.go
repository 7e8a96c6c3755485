package mysqlctl_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// A copy of a replica under load opens as a server of its own: its rows are those of
// its GTID set, and nothing of the replication or of the cluster stays in it.
func TestCloneLocalOfAReplica(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 0, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, p.EnsureReplicationAccount(ctx, "ha_r_one", "secret"))
	must(t, p.LockAccount(ctx, "ha_r_one", true))
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		rows := 0
		for ; ; rows++ {
			select {
			case <-stop:
				stopped <- rows
				return
			default:
				if p.Insert(ctx, "row") != nil {
					t.Error("insert failed")
				}
			}
		}
	}()
	before := r.MustStatus().Executed
	c := mysqltest.Config(t, t.TempDir())
	must(t, r.CloneLocal(ctx, c.DataDir, nil))
	close(stop)
	if rows := <-stopped; rows == 0 {
		t.Error("there was no load")
	}
	c.Options = append(c.Options, "--skip-networking", "--relay-log=relay-bin", "--relay-log-index=relay-bin.index")
	n := mysqltest.Wrap(t, c)
	must(t, n.Start(ctx))
	must(t, n.ResetReplica(ctx))
	must(t, n.ForgetCluster(ctx))
	st := n.MustStatus()
	if !st.Executed.Contains(before) || !p.MustStatus().Executed.Contains(st.Executed) || !st.SuperReadOnly || st.Replica != nil {
		t.Errorf("the copy is %+v", st)
	}
	if id, err := n.ClusterID(ctx); id != "" || err != nil {
		t.Errorf("cluster %q, %v", id, err)
	}
	if users := n.Value("SELECT COUNT(*) FROM mysql.user WHERE User LIKE 'ha\\_r%'"); users != "0" {
		t.Errorf("%s accounts of replicas", users)
	}
	options, err := n.CopyOptions(ctx)
	if err != nil || len(options) != 3 || options[1] != "--innodb-page-size=16384" {
		t.Errorf("%q, %v", options, err)
	}
	must(t, n.Stop(ctx))
	// Without the binary logs of this start the executed set is still there.
	logs, _ := filepath.Glob(filepath.Join(c.DataDir, "binlog.*"))
	for _, name := range logs {
		must(t, os.Remove(name))
	}
	must(t, n.Start(ctx))
	wantSet(t, "after a second start", n.MustStatus().Executed, st.Executed)
}

func TestCloneLocalCanBeEnded(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	long := mysqltest.Ctx(t, time.Minute)
	mustBe(t, mysqlctl.New(n.Config, nil).CloneLocal(long, "/nowhere", nil), mysqlctl.ErrUnsupported)
	target := filepath.Join(t.TempDir(), "copy")
	ctx, cancel := context.WithCancel(long)
	cancel()
	mustBe(t, n.CloneLocal(ctx, target, nil), context.Canceled)
	must(t, os.RemoveAll(target))
	must(t, n.CloneLocal(long, target, nil))
}
