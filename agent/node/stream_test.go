package node

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/raftfsm"
)

// A copy by a tool is put in place like one by CLONE, also where mysqld does not start
// on the old data; one that fails, or of which nothing comes, leaves them.
func TestRebuildByATool(t *testing.T) {
	for how, ok := range map[string]bool{"good": true, "broken data": true, "in place": true, "fails": false, "stalls": false} {
		t.Run(how, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.oldData()
				b.cfg.Scratch = func(string) Mysqld { t.Error("a throw-away server was started"); return newFake(t) }
				b.cfg.Stream = func(ctx context.Context, o raftfsm.Order, dir string, progress func(mysqlctl.CloneProgress)) error {
					b.md.set(func(f *fakeMysqld) { delete(f.fail, "Start") }) // the copy is sound
					if o.Engine != raftfsm.EngineXtraBackup || o.Source.Node != "n2" {
						t.Errorf("asked for %+v", o)
					}
					progress(mysqlctl.CloneProgress{Done: 5, Estimate: 10})
					switch how {
					case "fails":
						return errTest
					case "stalls":
						for sleep(ctx, time.Second) {
							progress(mysqlctl.CloneProgress{Done: 5, Estimate: 10})
						}
						return ctx.Err()
					}
					if r := b.n.copy.report(); r.Phase != raftfsm.CopyRunning {
						t.Errorf("while it copies: %+v", r)
					}
					progress(mysqlctl.CloneProgress{Stage: phaseVerify})
					if r := b.n.copy.report(); r.Phase != phaseVerify || r.Bytes != 5 || r.Total != 10 {
						t.Errorf("when all has come: %+v", r)
					}
					return cloneFiles(dir)
				}
				if how == "broken data" {
					b.md.set(func(f *fakeMysqld) { f.fail["Start"] = errTest })
					b.begin()
				} else {
					b.up()
				}
				b.md.forget()
				o := rebuild(1, 19)
				o.Engine, o.InPlace = raftfsm.EngineXtraBackup, how == "in place"
				o.Source.Node = "n2"
				b.mustOrder(o)
				r := b.ended(19)
				want := map[bool]string{true: "new", false: "old"}[ok]
				if r.Done != ok || (r.Err == "") != ok || b.data() != want || b.md.did("Clone") || r.Bytes != 5 {
					t.Errorf("%+v, data %q, did %s", r, b.data(), b.md.effects())
				}
				b.within(10*time.Second, "up", b.n.isUp)
			})
		})
	}
}

// A server that an earlier agent had opened a copy with ends before the copy goes.
func TestServerOnAnUnfinishedCopyIsEnded(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		left := newFake(t)
		left.set(func(f *fakeMysqld) { f.run() })
		unfinished := filepath.Join(b.md.dir+".clone", "data")
		if err := os.MkdirAll(unfinished, 0o750); err != nil {
			t.Fatal(err)
		}
		b.cfg.Scratch = func(dir string) Mysqld {
			if dir != unfinished {
				t.Errorf("looked for a server on %s", dir)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Errorf("its data are gone already: %v", err)
			}
			return left
		}
		b.up()
		if !left.did("Kill") || b.data() != "old" || len(b.leftovers()) != 0 {
			t.Errorf("it did %s; data %q, beside them %v", left.effects(), b.data(), b.leftovers())
		}
	})
}

func TestRebuildByAToolThatIsNotKnown(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		o := rebuild(1, 19)
		o.Engine = raftfsm.EngineXtraBackup
		if a := b.order(o); a.OK || a.Code != raftfsm.CodeFailed {
			t.Errorf("%+v", a)
		}
	})
}
