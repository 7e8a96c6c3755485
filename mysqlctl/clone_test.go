package mysqlctl_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// A copy beside the old data, as a rebuild makes it: started, it is a server of its
// own with all the rows, whose history is in no binary log of its own.
func TestCloneStartsAsAnotherServer(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	donor, r := mysqltest.Primary(t, 0, nodes[0]), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	for range 5 {
		must(t, donor.Insert(ctx, "row"))
	}
	c := mysqltest.Config(t, t.TempDir())
	var last mysqlctl.CloneProgress
	must(t, r.Clone(ctx, donor.Source(), c.DataDir, 0, func(p mysqlctl.CloneProgress) { last = p }))
	if last.Done == 0 || last.Estimate == 0 || last.State != "Completed" {
		t.Errorf("progress %+v", last)
	}
	n := mysqltest.Wrap(t, c)
	c.Account.Password = "the donor's was another"
	n.Server = mysqlctl.New(c, mysqltest.Logger(t))
	_, err := n.OfflinePosition()
	mustBe(t, err, mysqlctl.ErrUnreadable)
	must(t, n.Start(ctx))
	st := n.MustStatus()
	wantSet(t, "cloned", st.Executed, donor.MustStatus().Executed)
	if st.ServerUUID == donor.MustStatus().ServerUUID || !st.SuperReadOnly || st.Replica != nil {
		t.Errorf("the clone is %+v", st)
	}
	if id, err := n.ClusterID(ctx); id != "test" || err != nil {
		t.Errorf("cluster %q, %v", id, err)
	}
	must(t, n.Follow(ctx, donor.Source(), false))
	must(t, donor.Insert(ctx, "after the clone"))
	sameRows(t, donor, n)
	executed := n.MustStatus().Executed
	must(t, n.Kill(ctx))
	wantSet(t, "a dead clone", offline(t, n), executed)
	// The base is what makes it so: the clone's own log does not tell.
	must(t, os.Remove(filepath.Join(c.DataDir, ".ha_gtid_base")))
	_, err = n.OfflinePosition()
	mustBe(t, err, mysqlctl.ErrUnreadable)
}

func TestCloneCanBeEnded(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	donor, r := mysqltest.Primary(t, 0, nodes[0]), nodes[1]
	long := mysqltest.Ctx(t, time.Minute)
	wrong := donor.Source()
	wrong.Password = "wrong"
	target := filepath.Join(t.TempDir(), "copy")
	mustBe(t, r.Clone(long, wrong, target, 0, nil), mysqlctl.ErrDenied)
	ctx, cancel := context.WithCancel(long)
	var err error
	within(t, 20*time.Second, "ended clone", func() {
		err = r.Clone(ctx, donor.Source(), target, 1<<20, func(mysqlctl.CloneProgress) { cancel() })
	})
	cancel()
	mustBe(t, err, context.Canceled)
	if errors.Is(err, mysqlctl.ErrAbandoned) {
		t.Errorf("abandoned: %v", err)
	}
	if n := r.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_INFO LIKE 'CLONE%'"); n != "0" {
		t.Error("the clone still runs")
	}
	must(t, os.RemoveAll(target))
	mysqltest.Eventually(t, enough, "the donor has seen it too", func() bool {
		return donor.Value("SELECT COUNT(*) FROM performance_schema.threads WHERE PROCESSLIST_COMMAND = 'clone'") == "0"
	})
	must(t, r.Clone(long, donor.Source(), target, 0, nil))
}

func TestProbeDiskNamesWhatIsWrong(t *testing.T) {
	c := mysqlctl.Config{DataDir: t.TempDir()}
	s := mysqlctl.New(c, nil)
	ctx := mysqltest.Ctx(t, enough)
	must(t, s.ProbeDisk(ctx))
	must(t, s.ProbeDisk(ctx))
	if os.Geteuid() != 0 {
		t.Skip("the rest mounts file systems")
	}
	mount := func(t *testing.T, options string, flags uintptr) *mysqlctl.Server {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
			t.Skip("cannot mount: ", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		return mysqlctl.New(mysqlctl.Config{DataDir: dir}, nil)
	}
	t.Run("full", func(t *testing.T) {
		s := mount(t, "size=4m", 0)
		must(t, s.ProbeDisk(ctx))
		must(t, os.WriteFile(filepath.Join(s.Config().DataDir, "fill"), make([]byte, 4<<20-8192), 0o600))
		mustBe(t, s.ProbeDisk(ctx), mysqlctl.ErrDiskFull)
	})
	t.Run("read-only", func(t *testing.T) {
		s := mount(t, "size=4m", unix.MS_RDONLY)
		mustBe(t, s.ProbeDisk(ctx), mysqlctl.ErrDiskReadOnly)
	})
}
