package mysqlctl_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// smallDisk mounts one with room for 4 MB, which fill takes all and give gives back.
func smallDisk(t *testing.T) (dir string, fill, give func()) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("A SMALL DISK CANNOT BE MOUNTED HERE (%v): WHAT A FULL ONE DOES TO MYSQLD IS NOT TESTED", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	return dir, func() {
		t.Helper()
		f, err := os.Create(ballast)
		must(t, err)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		mustBe(t, err, unix.ENOSPC)
		must(t, f.Close())
	}, func() { t.Helper(); must(t, os.Remove(ballast)) }
}

// seenToWait waits until a probe, of a disk that is well again, says that mysqld waits on.
func seenToWait(t *testing.T, n *mysqltest.Node) {
	t.Helper()
	var err error
	mysqltest.Eventually(t, 10*time.Second, "seen", func() bool {
		err = n.ProbeDisk(t.Context())
		return err != nil
	})
	mustBe(t, err, mysqlctl.ErrDiskWait)
}

// mysqld sleeps for a minute when it finds no room for its binary log, and commits with
// it, also when there is room a moment later (a chaos run found that): the disk is well
// then, and the server is not.
func TestCommitsThatWaitForRoomAreSeen(t *testing.T) {
	logs, fill, give := smallDisk(t)
	n := mysqltest.New(t, func(c *mysqlctl.Config) { c.LogBin = filepath.Join(logs, "binlog") })
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, n.Server.Start(ctx))
	mysqltest.Primary(t, 0, n)
	must(t, n.Insert(ctx, "there is room"))

	fill()
	answer := make(chan error, 1)
	go func() {
		var err error
		for err == nil { // the first may fit into what the file has of its last page
			err = n.Insert(context.WithoutCancel(ctx), strings.Repeat("there is none ", 100))
		}
		answer <- err
	}()
	mysqltest.Eventually(t, enough, "commit waits", func() bool { return n.MustStatus().WaitingFor > 300*time.Millisecond })
	mustBe(t, n.ProbeDisk(ctx), mysqlctl.ErrDiskFull)
	give()
	seenToWait(t, n)
	// Each look says so: who acts on it waits until it has lasted.
	for i := range 200 {
		if err := n.ProbeDisk(ctx); !errors.Is(err, mysqlctl.ErrDiskWait) {
			t.Fatalf("look %d: %v", i, err)
		}
	}
	select {
	case err := <-answer:
		t.Fatalf("it waits no more: %v", err)
	default:
	}

	// The cure.
	must(t, n.Kill(ctx))
	must(t, n.Server.Start(ctx))
	n.Exec("SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF")
	must(t, n.Insert(ctx, "there is room again"))
	must(t, n.ProbeDisk(ctx))
}

// Nor is a new binary log begun where there is hardly room: the statement would hang,
// and nothing could end it.
func TestNoBinlogIsBegunWithoutRoom(t *testing.T) {
	logs, fill, give := smallDisk(t)
	n := mysqltest.New(t, func(c *mysqlctl.Config) { c.LogBin = filepath.Join(logs, "binlog") })
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, n.Server.Start(ctx))
	fill()
	mustBe(t, n.FlushBinlog(ctx), mysqlctl.ErrDiskFull)
	give()
	must(t, n.ProbeDisk(ctx)) // nothing waits
}

// Nor does a receiver do anything for a minute that found no room for its relay log.
func TestAReceiverThatWaitsForRoomIsSeen(t *testing.T) {
	logs, fill, give := smallDisk(t)
	p := mysqltest.Start(t, 1)[0]
	r := mysqltest.New(t, func(c *mysqlctl.Config) {
		c.Options = append(c.Options, "--relay-log="+filepath.Join(logs, "relay-bin"), "--relay-log-index="+filepath.Join(logs, "relay-bin.index"))
	})
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, r.Server.Start(ctx))
	mysqltest.Primary(t, 0, p, r)
	mysqltest.CaughtUp(t, p, r)
	must(t, r.ProbeDisk(ctx))

	fill()
	for range 5 {
		must(t, p.Insert(ctx, strings.Repeat("there is no room ", 100)))
	}
	mysqltest.Eventually(t, enough, "the receiver meets it", func() bool { return strings.Contains(r.Log(), "Disk is full writing") })
	give()
	seenToWait(t, r)

	// The cure.
	must(t, r.Kill(ctx))
	must(t, r.Server.Start(ctx))
	must(t, r.Follow(ctx, p.Source(), false))
	sameRows(t, p, r)
	mysqltest.Eventually(t, enough, "well", func() bool { return r.ProbeDisk(ctx) == nil })
}

// Commits that take long for want of an acknowledgement have nothing to do with the disk.
func TestCommitsThatWaitForAcksAreNotTakenForThat(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p, r := mysqltest.Primary(t, 1, nodes...), nodes[1]
	ctx := mysqltest.Ctx(t, time.Minute)
	_, err := r.SealReplica(ctx)
	must(t, err)
	first, second := p.InsertWaiting("first"), p.InsertWaiting("second")
	mysqltest.Eventually(t, enough, "commits wait", func() bool { st := p.MustStatus(); return st.Waiting > 1 && st.WaitingFor > 1200*time.Millisecond })
	must(t, p.ProbeDisk(ctx))
	must(t, r.Follow(ctx, p.Source(), true))
	must(t, <-first)
	must(t, <-second)
}
