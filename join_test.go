package main_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/sandbox"
	"ha/bench/load"
)

// Hosts with empty disks join, under load: nothing is done but starting their agents
// (ha agent with a join list). Each is filled from a replica, follows, acknowledges and
// votes where an odd number allows it. `make join SIZE=5` (HA_JOIN_GB) does it with so
// much data, first with one host, and prints what it took.
func TestEmptyHostsJoin(t *testing.T) {
	gb, _ := strconv.ParseFloat(os.Getenv("HA_JOIN_GB"), 64)
	c := copies{newE2E(t, "127.0.112.0")}
	c.fill(max(fillMB, int(gb*1000)))
	st := c.healthy()
	c.sized(st.Primary)
	if gb > 0 {
		c.joined(st, c.added())
		st = c.healthy()
	}
	one, two := c.added(), c.added()
	c.joined(st, one, two)
	voters := 0
	for _, n := range c.healthy().Nodes {
		if n.Raft == "leader" || n.Raft == "voter" {
			voters++
		}
	}
	if voters != 5 {
		t.Errorf("%d of %d nodes vote", voters, len(c.Nodes))
	}
	if a, b := c.rebuild(one.Name).Donor, c.rebuild(two.Name).Donor; a == b {
		t.Errorf("both were copied from %s", a)
	}
	c.check()
}

// fill writes so many MB.
func (c copies) fill(mb int) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 15*time.Minute)
	defer cancel()
	if err := load.Fill(ctx, c.root(c.healthy().Primary), mb); err != nil {
		c.Fatal(err)
	}
	c.healthy()
}

// sized waits until an agent has counted that there is a lot of data.
func (c copies) sized(node string) {
	c.Helper()
	cluster, err := c.Cluster()
	if err != nil {
		c.Fatal(err)
	}
	n, err := c.Node(node)
	if err != nil {
		c.Fatal(err)
	}
	client, err := cluster.Client()
	if err != nil {
		c.Fatal(err)
	}
	client.Addrs = []string{n.Agent}
	c.eventually(30*time.Second, "the size of the data is known", func() (bool, string) {
		ctx, cancel := context.WithTimeout(c.Context(), 5*time.Second)
		defer cancel()
		var self api.Self
		_, err := client.Get(ctx, api.PathSelf, &self)
		return err == nil && self.Report != nil && self.Report.DataSize > fillMB<<20, fmt.Sprint(self.Report, err)
	})
}

// added is one more host, whose agent has been started.
func (c copies) added() sandbox.Node {
	c.Helper()
	n, err := c.Add(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	dsn, err := c.DSN(n.Name)
	if err != nil {
		c.Fatal(err)
	}
	c.Servers = append(c.Servers, load.Server{Name: n.Name, DSN: dsn})
	return n
}

// joined waits until new hosts acknowledge.
func (c copies) joined(before api.Status, nodes ...sandbox.Node) {
	c.Helper()
	began := time.Now()
	for _, n := range nodes {
		c.eventually(10*time.Minute, n.Name+" acknowledges", func() (bool, string) {
			for _, s := range c.status().Nodes {
				if s.Name == n.Name {
					return s.Acker && s.Attached, fmt.Sprintf("%+v", s)
				}
			}
			return false, "it is no member"
		})
		took := time.Since(began)
		end := c.rebuild(n.Name)
		if !end.OK || end.Donor == before.Primary {
			c.Errorf("%s was not filled, or not from a replica: %+v", n.Name, end)
		}
		size := int64(0)
		_ = filepath.WalkDir(filepath.Join(c.NodeDir(n.Name), "data"), func(_ string, d os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(d.Name(), ".ibd") {
				if info, err := d.Info(); err == nil {
					size += info.Size()
				}
			}
			return nil
		})
		c.Logf("%s: filled from %s in %.1f s, acknowledges %.1f s after its agent was started; %d MB", n.Name, end.Donor, float64(end.TookMS)/1000, took.Seconds(), size>>20)
	}
	for _, n := range nodes {
		c.well(n.Name)
	}
}
