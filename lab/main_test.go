package lab_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"ha/lab"
)

var (
	all   = flag.Bool("all", false, "try every fault, not the quick ones only")
	table = flag.String("table", "", "write what was seen to this `file`")
)

// shared is the lab that faults strike one after the other; a fault that leaves it
// broken has the next one make another.
var (
	shared       *lab.Lab
	sharedFaulty bool
)

// needLab skips the test where no lab can be.
func needLab(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Getenv("HA_MYSQLD") == "" {
		t.Skip("needs a mysqld: set HA_MYSQLD (make test does), and no -short")
	}
	if m := lab.Missing(); m != "" {
		t.Skip("NOT TESTED: no lab can be made here: " + m)
	}
}

func newScene(t *testing.T) *scene {
	t.Helper()
	return newSceneOf(t, false)
}

// newSceneOf makes one with the real agents, or with those that tests let die.
func newSceneOf(t *testing.T, faulty bool) *scene {
	t.Helper()
	needLab(t)
	if faulty != sharedFaulty {
		endShared()
	}
	if shared == nil {
		l, err := lab.Up(t.Context(), lab.Options{Hosts: 3, Clients: 2, Dir: labDir(), Mysqld: os.Getenv("HA_MYSQLD"), Faulty: faulty})
		if err != nil {
			t.Fatal(err)
		}
		shared, sharedFaulty = l, faulty
		if current, err = l.NewScene(context.WithoutCancel(t.Context())); err != nil {
			endShared()
			t.Fatal(err)
		}
	} else if err := current.Resume(context.WithoutCancel(t.Context())); err != nil {
		endShared()
		t.Fatal(err)
	}
	if err := current.Grow(200, 20*time.Second); err != nil {
		endShared()
		t.Fatal(err)
	}
	return &scene{T: t, Scene: current}
}

// current is the scene of the shared lab.
var current *lab.Scene

var scratch string

func labDir() string {
	dir, err := os.MkdirTemp(scratch, "lab")
	if err != nil {
		panic(err)
	}
	return dir
}

func TestMain(m *testing.M) {
	lab.Main()
	flag.Parse()
	if how := os.Getenv("HA_LAB_CHILD"); how != "" {
		child(how)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if scratch, err = lab.Scratch(); err != nil {
		panic(err)
	}
	defer os.RemoveAll(scratch)
	code := m.Run()
	endShared()
	for _, r := range results {
		if r.Failed != "" {
			fmt.Printf("FAILED %s: %s: %s\n", r.Group, r.Fault, r.Failed)
		}
	}
	if *table != "" && len(results) > 0 {
		if err := lab.WriteResults(*table, results, names()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func endShared() {
	if shared != nil {
		if current != nil {
			current.Stop()
		}
		shared.Down()
		shared, current = nil, nil
	}
}
