package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

func rebuild(step, lease uint64) raftfsm.Order {
	return raftfsm.Order{Token: tok(2, 20, step), Op: raftfsm.OpRebuild, Lease: lease, Source: source("n2")}
}

// next is a token that is greater than the stored one.
func (b *bench) next() raftfsm.Token {
	t := b.n.Stored().Token
	t.Step++
	return t
}

// ended waits for the end of the rebuild under a lease, as a coordinator does: a copy
// that is ready is put in place by order, and ended where the agent refuses that.
func (b *bench) ended(lease uint64) raftfsm.RebuildReport {
	b.t.Helper()
	var last raftfsm.RebuildReport
	b.within(5*time.Minute, "rebuild ended", func() bool {
		r := b.co.last().Rebuild
		if r != nil && r.Index == lease && r.Phase == raftfsm.CopyReady && r.Err == "" {
			a := b.order(raftfsm.Order{Token: b.next(), Op: raftfsm.OpSwap, Lease: lease})
			if a.Code == raftfsm.CodeFailed {
				b.mustOrder(raftfsm.Order{Token: b.next(), Op: raftfsm.OpEndRebuild, Lease: lease})
			}
		}
		if r == nil || r.Index != lease || !r.Done && r.Err == "" {
			return false
		}
		last = *r
		return true
	})
	return last
}

func (b *bench) data() string {
	content, _ := os.ReadFile(filepath.Join(b.md.dir, "ibdata1"))
	return string(content)
}

func (b *bench) oldData() {
	b.t.Helper()
	for _, name := range []string{"ibdata1", "mysql.ibd"} {
		if err := os.WriteFile(filepath.Join(b.md.dir, name), []byte("old"), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) leftovers() []string {
	b.t.Helper()
	found, err := filepath.Glob(b.md.dir + ".*")
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

// A copy that cannot be put in place ends there, whether or not its coordinator hears how
// the order went: the lease, its donor and its room are for others.
func TestACopyThatCannotBePutInPlace(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		b.mustOrder(rebuild(1, 19))
		b.within(time.Minute, "ready", func() bool {
			r := b.co.last().Rebuild
			return r != nil && r.Phase == raftfsm.CopyReady
		})
		// As on a disk that is full: what the data hold cannot be noted.
		if err := os.Mkdir(filepath.Join(b.md.dir, "ha.replaced"), 0o700); err != nil {
			t.Fatal(err)
		}
		if a := b.order(raftfsm.Order{Token: b.next(), Op: raftfsm.OpSwap, Lease: 19}); a.Code != raftfsm.CodeFailed {
			t.Errorf("%+v", a)
		}
		b.within(time.Minute, "the copy has ended", func() bool {
			r := b.co.last().Rebuild
			return r.Done || r.Err != ""
		})
		if r := b.co.last().Rebuild; r.Done || strings.Count(r.Err, "is a directory") != 1 {
			t.Errorf("%+v", r)
		}
		b.within(time.Minute, "mysqld runs on the old data, and nothing is left beside them", func() bool {
			return b.n.isUp() && b.data() == "old" && len(b.leftovers()) == 0
		})
	})
}

func TestRebuild(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		b.md.set(func(f *fakeMysqld) {
			f.clone = func(ctx context.Context, dir string) error {
				if !sleep(ctx, 10*time.Second) {
					return ctx.Err()
				}
				return cloneFiles(dir)
			}
		})
		b.md.forget()
		b.n.cfg.AwaitArchived = func(_ context.Context, set gtid.Set) {
			if !b.md.did("SealReplica") || b.md.did("StopFast") || !set.Equal(b.md.position().All()) {
				t.Errorf("the archive is waited for, to have %s, after %s", set, b.md.effects())
			}
			b.md.set(func(f *fakeMysqld) { f.log = append(f.log, "archived") })
		}
		began := time.Now()
		b.mustOrder(rebuild(1, 19))
		if time.Since(began) > time.Second {
			t.Error("the order was answered late")
		}
		b.within(2*time.Second, "progress", func() bool {
			r := b.co.last().Rebuild
			return r != nil && r.Phase == "copy" && r.Bytes == 5 && r.Total == 10
		})
		b.mustOrder(rebuild(2, 19)) // the same lease again
		if r := b.ended(19); !r.Done || r.Err != "" {
			t.Fatalf("%+v", r)
		}
		if got := b.md.effects(); got != "Clone SealReplica archived StopFast Start DiscardReceived" {
			t.Errorf("did %s", got)
		}
		if b.data() != "new" || len(b.leftovers()) != 1 || !b.n.isUp() || b.n.Stored().Role != RoleNone {
			t.Errorf("data %q, beside them %v", b.data(), b.leftovers())
		}
		o := rebuild(3, 19) // done is done
		o.Token = b.next()
		b.mustOrder(o)
		time.Sleep(time.Minute)
		if strings.Count(b.md.effects(), "Clone") != 1 {
			t.Error("copied twice")
		}
	})
}

// The account of a new member may come to the donor a moment after the order.
func TestRebuildWaitsForItsAccount(t *testing.T) {
	for refusals, ok := range map[int]bool{3: true, 1000: false} {
		inBubble(t, func(b *bench) {
			b.oldData()
			b.up()
			b.md.set(func(f *fakeMysqld) {
				f.clone = func(_ context.Context, dir string) error {
					if refusals--; refusals >= 0 {
						_ = os.MkdirAll(dir, 0o750)
						return fmt.Errorf("test: %w", mysqlctl.ErrDenied)
					}
					return cloneFiles(dir)
				}
			})
			began := time.Now()
			b.mustOrder(rebuild(1, 19))
			if r := b.ended(19); r.Done != ok || time.Since(began) > deniedFor+time.Minute {
				t.Errorf("%+v", r)
			}
		})
	}
}

// A failed copy leaves the data as they were, and nothing beside them.
func TestRebuildFails(t *testing.T) {
	for name, change := range map[string]func(*fakeMysqld){
		"clone fails": func(f *fakeMysqld) { f.fail["Clone"] = errTest },
		"incomplete": func(f *fakeMysqld) {
			f.clone = func(_ context.Context, dir string) error { return os.MkdirAll(dir, 0o750) }
		},
		"mysqld dies": func(f *fakeMysqld) {
			f.clone = func(ctx context.Context, dir string) error {
				_ = os.MkdirAll(dir, 0o750)
				f.crash()
				return errTest
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.oldData()
				b.up()
				b.md.set(change)
				b.mustOrder(rebuild(1, 19))
				if r := b.ended(19); r.Err == "" || r.Done {
					t.Errorf("%+v", r)
				}
				b.within(time.Minute, "up", b.n.isUp)
				if b.data() != "old" || len(b.leftovers()) != 0 {
					t.Errorf("data %q, beside them %v", b.data(), b.leftovers())
				}
			})
		})
	}
}

// Another lease ends the copy that is being made.
func TestRebuildUnderAnotherLease(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		var first = true
		b.md.set(func(f *fakeMysqld) {
			f.clone = func(ctx context.Context, dir string) error {
				if first {
					first = false
					_ = os.MkdirAll(dir, 0o750)
					<-ctx.Done()
					return ctx.Err()
				}
				return cloneFiles(dir)
			}
		})
		b.mustOrder(rebuild(1, 19))
		time.Sleep(time.Second)
		b.mustOrder(rebuild(2, 21))
		if r := b.ended(21); !r.Done {
			t.Errorf("%+v", r)
		}
		if b.data() != "new" {
			t.Errorf("data %q", b.data())
		}
	})
}

// An agent that ends while it copies leaves leftovers; the next one removes them.
func TestRebuildEndsWithTheAgent(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		b.md.set(func(f *fakeMysqld) {
			f.clone = func(ctx context.Context, dir string) error {
				_ = os.MkdirAll(dir, 0o750)
				<-ctx.Done()
				return ctx.Err()
			}
		})
		b.mustOrder(rebuild(1, 19))
		time.Sleep(time.Second)
		b.end()
		b.md.crash()
		b.begin()
		b.within(10*time.Second, "up", b.n.isUp)
		if b.data() != "old" || len(b.leftovers()) != 0 || b.n.Report().Rebuild != nil {
			t.Errorf("data %q, beside them %v", b.data(), b.leftovers())
		}
	})
}

func TestRebuildRefused(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.up()
		b.lead(2)
		if a := b.order(raftfsm.Order{Token: tok(2, 30, 1), Op: raftfsm.OpRebuild, Lease: 30, Source: source("n2")}); a.OK {
			t.Errorf("of the primary: %+v", a)
		}
		// Of a later epoch, but the server is open still.
		if a := b.order(raftfsm.Order{Token: tok(3, 30, 1), Op: raftfsm.OpRebuild, Lease: 30, Source: source("n2")}); a.OK {
			t.Errorf("of a writable server: %+v", a)
		}
		if a := b.order(raftfsm.Order{Token: tok(3, 30, 2), Op: raftfsm.OpRebuild, Source: source("n2")}); a.OK {
			t.Errorf("without a lease: %+v", a)
		}
		if b.md.did("Clone") || b.data() != "old" {
			t.Error("copied")
		}
	})
}

// A deposed primary that was closed is rebuilt; one that is promoted while it is
// copied, opened or not, keeps its data.
func TestRebuildOfAFormerPrimary(t *testing.T) {
	for _, change := range []string{"none", "promoted", "opened"} {
		promoted, opened := change != "none", change == "opened"
		inBubble(t, func(b *bench) {
			b.oldData()
			b.up()
			b.lead(1)
			b.mustOrder(raftfsm.Order{Token: tok(1, 15, 1), Op: raftfsm.OpSeal, Former: true})
			b.md.set(func(f *fakeMysqld) {
				f.clone = func(ctx context.Context, dir string) error {
					if !sleep(ctx, 10*time.Second) {
						return ctx.Err()
					}
					return cloneFiles(dir)
				}
			})
			b.mustOrder(rebuild(1, 19))
			if opened {
				b.lead(3)
			} else if promoted { // not yet granted
				b.order(raftfsm.Order{Token: tok(3, 30, 1), Op: raftfsm.OpPromote, K: 1})
			}
			r := b.ended(19)
			if r.Done == promoted || (b.data() == "old") != promoted || b.open() != opened {
				t.Errorf("%s: %+v, data %q", change, r, b.data())
			}
		})
	}
}

// Data that mysqld does not start on are replaced with the help of another one.
func TestRebuildOfBrokenData(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		scratch := newFake(t)
		var at string
		b.cfg.Scratch = func(dir string) Mysqld {
			at = dir
			return scratch
		}
		b.md.set(func(f *fakeMysqld) { f.fail["Start"] = errTest })
		scratch.set(func(f *fakeMysqld) {
			f.clone = func(_ context.Context, dir string) error {
				b.md.set(func(f *fakeMysqld) { delete(f.fail, "Start") }) // the copy is sound
				return cloneFiles(dir)
			}
		})
		b.begin()
		time.Sleep(10 * time.Second)
		b.mustOrder(rebuild(1, 19))
		if r := b.ended(19); !r.Done {
			t.Errorf("%+v", r)
		}
		if got := scratch.effects(); got != "Initialize Start Clone Kill" || !strings.HasPrefix(at, b.md.dir+".clone") {
			t.Errorf("the throw-away server on %s did %s", at, got)
		}
		if b.data() != "new" || !b.n.isUp() || len(b.leftovers()) != 1 {
			t.Errorf("data %q, beside them %v", b.data(), b.leftovers())
		}
	})
}

func TestRebuildOfBrokenDataWithoutHelp(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.oldData()
		b.md.set(func(f *fakeMysqld) { f.fail["Start"] = errTest })
		b.begin()
		time.Sleep(10 * time.Second)
		b.mustOrder(rebuild(1, 19))
		if r := b.ended(19); !strings.Contains(r.Err, errTest.Error()) || b.data() != "old" {
			t.Errorf("%+v, data %q", r, b.data())
		}
	})
}

// A copy that lacks what its donor had, or that mysqld does not start on, is taken back;
// also by an agent that was started after it was put in place.
func TestCopyIsTakenBack(t *testing.T) {
	good, more := gtid.MustParse(otherUUID+":1-10"), gtid.MustParse(otherUUID+":1-11")
	for name, tc := range map[string]struct {
		floor            gtid.Set
		refuses, restart bool
		err              string
	}{
		"good":                   {good, false, false, ""},
		"good, restart":          {good, false, true, ""},
		"lacks some":             {more, false, false, "the copy lacks " + otherUUID + ":11"},
		"lacks some, restart":    {more, false, true, "the copy lacks " + otherUUID + ":11"},
		"does not open":          {good, true, false, "does not start on the copy"},
		"does not open, restart": {good, true, true, "does not start on the copy"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.oldData()
				b.up()
				b.md.set(func(f *fakeMysqld) {
					f.startFor = 20 * time.Second
					f.clone = func(_ context.Context, dir string) error {
						if tc.refuses {
							b.md.set(func(f *fakeMysqld) { f.fail["Start"] = errTest })
						}
						return cloneFiles(dir)
					}
				})
				o := rebuild(1, 19)
				o.Keep = tc.floor
				b.mustOrder(o)
				if tc.restart {
					b.within(time.Minute, "copied", func() bool {
						r := b.co.last().Rebuild
						return r != nil && r.Phase == raftfsm.CopyReady
					})
					b.mustOrder(raftfsm.Order{Token: b.next(), Op: raftfsm.OpSwap, Lease: 19})
					b.end()
					b.md.crash()
					b.begin()
					again := rebuild(1, 19)
					again.Token, again.Keep = b.next(), more // of a later epoch
					b.mustOrder(again)
				}
				r := b.ended(19)
				if tc.err == "" && (!r.Done || b.data() != "new") || tc.err != "" && (!strings.Contains(r.Err, tc.err) || b.data() != "old" || len(b.leftovers()) > 0) {
					t.Errorf("%+v, data %q, beside them %v", r, b.data(), b.leftovers())
				}
			})
		})
	}
}

// Old data are removed once the copy is known to hold all of them, also where mysqld did
// not run and the disk alone tells. What could not be read is kept.
func TestOldDataOfADeadServer(t *testing.T) {
	errant := gtid.MustParse(ownUUID + ":1-3")
	for name, tc := range map[string]struct {
		change func(*fakeMysqld)
		why    string // they are kept; empty: removed
	}{
		"nothing of its own": {func(*fakeMysqld) {}, ""},
		"errant":             {func(f *fakeMysqld) { f.offline = f.offline.Union(errant) }, "the copy lacks: " + errant.String()},
		"received":           {func(f *fakeMysqld) { f.received = errant }, "the copy lacks: " + errant.String()},
		"unreadable":         {func(f *fakeMysqld) { f.fail["OfflinePosition"] = errTest }, "could not be read"},
		"relay unreadable":   {func(f *fakeMysqld) { f.fail["OfflineReceived"] = errTest }, "could not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.oldData()
				scratch := newFake(t)
				b.cfg.Scratch = func(string) Mysqld { return scratch }
				b.md.set(func(f *fakeMysqld) {
					f.fail["Start"] = errTest
					tc.change(f)
				})
				scratch.set(func(f *fakeMysqld) {
					f.clone = func(_ context.Context, dir string) error {
						b.md.set(func(f *fakeMysqld) { delete(f.fail, "Start") })
						return cloneFiles(dir)
					}
				})
				b.begin()
				time.Sleep(10 * time.Second)
				b.mustOrder(rebuild(1, 19))
				if r := b.ended(19); !r.Done {
					t.Fatalf("%+v", r)
				}
				b.mustOrder(raftfsm.Order{Token: b.next(), Op: raftfsm.OpFollow, Source: source("n2")})
				time.Sleep(time.Minute)
				r := b.n.Report()
				if tc.why == "" && (len(b.leftovers()) > 0 || r.OldWhy != "") || tc.why != "" && (len(b.leftovers()) != 1 || !strings.Contains(r.OldWhy, tc.why)) {
					t.Errorf("%v, %q", b.leftovers(), r.OldWhy)
				}
			})
		})
	}
}

// Every crash point of the swap, as the next run of an agent finds it.
func TestRebuildCrashPoints(t *testing.T) {
	for _, step := range []string{"copy", "verify", "name", "discard", "away", "in", "clean"} {
		t.Run(step, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.oldData()
				b.up()
				place := b.n.place
				place.Step = func(next string) error {
					if next == step {
						return errTest
					}
					return nil
				}
				if err := place.Prepare(); err != nil {
					t.Fatal(err)
				}
				err := place.Take(b.t.Context(), func(_ context.Context, dir string, _ xtra.Progress) error { return cloneFiles(dir) }, nil)
				if err == nil {
					err = place.Swap()
				}
				if err == nil {
					t.Fatal("no crash")
				}
				b.end()
				b.md.crash()
				b.begin()
				b.within(10*time.Second, "up", b.n.isUp)
				if got := b.data(); got != "old" && got != "new" {
					t.Errorf("data %q", got)
				}
				for _, left := range b.leftovers() {
					if !strings.HasSuffix(left, ".old") {
						t.Errorf("left: %s", left)
					}
				}
			})
		})
	}
}
