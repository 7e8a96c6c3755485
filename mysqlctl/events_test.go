package mysqlctl_test

import (
	"strings"
	"testing"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// Events run where the primary is, and those that a person disabled nowhere, however
// often it changes.
func TestEventsFollowThePrimary(t *testing.T) {
	nodes := mysqltest.Start(t, 2)
	p := mysqltest.Primary(t, 1, nodes...)
	x := &pair{nodes[0], nodes[1]}
	ctx := mysqltest.Ctx(t, enough)
	p.Exec("CREATE USER `quo``ted@user`@localhost", "CREATE DATABASE `d``b`",
		"CREATE DEFINER = `quo``ted@user`@localhost EVENT app.runs ON SCHEDULE EVERY 1 HOUR ON COMPLETION PRESERVE COMMENT 'as it was' DO INSERT INTO app.t (v) VALUES ('x')",
		"CREATE DEFINER = nobody EVENT `d``b`.`an ``event` ON SCHEDULE EVERY 1 DAY STARTS '2999-01-01' DO SELECT 1",
		"CREATE EVENT app.never ON SCHEDULE EVERY 1 HOUR DISABLE DO SELECT 1",
		"CREATE EVENT app.stopped ON SCHEDULE EVERY 1 HOUR DO SELECT 1",
		"ALTER EVENT app.stopped DISABLE")
	look := func(n *mysqltest.Node) string {
		t.Helper()
		return n.Rows("SELECT EVENT_NAME, STATUS FROM information_schema.EVENTS ORDER BY EVENT_NAME")
	}
	rest := "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER, EVENT_DEFINITION, EVENT_TYPE, INTERVAL_VALUE, INTERVAL_FIELD, STARTS, COALESCE(ENDS, ''), ON_COMPLETION, EVENT_COMMENT, SQL_MODE, TIME_ZONE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION, DATABASE_COLLATION FROM information_schema.EVENTS ORDER BY EVENT_NAME"
	before, states := p.Rows(rest), look(p)
	if states != "an `event\tENABLED\nnever\tDISABLED\nruns\tENABLED\nstopped\tDISABLED\n" {
		t.Fatal(states)
	}
	must(t, p.NoteEvents(ctx))
	was := p.MustStatus().Executed
	must(t, p.NoteEvents(ctx))
	must(t, p.EnableEvents(ctx)) // nothing to do
	wantSet(t, "noted and enabled already", p.MustStatus().Executed, was)
	count := func(n *mysqltest.Node, want int) {
		t.Helper()
		if got, err := n.DisabledEvents(ctx); err != nil || got != want {
			t.Errorf("%d events disabled, %v, want %d", got, err, want)
		}
	}
	mysqltest.CaughtUp(t, x.p, x.r)
	count(x.p, 0)
	count(x.r, 4)
	mustBe(t, x.r.EnableEvents(ctx), mysqlctl.ErrReadOnly)

	for range 2 { // there and back
		must(t, x.p.Fence(ctx))
		mysqltest.CaughtUp(t, x.p, x.r)
		must(t, x.r.ResetReplica(ctx))
		must(t, x.p.ConfigureSource(ctx, 0))
		x.p, x.r = x.r, x.p
		must(t, x.p.OpenWrites(ctx))
		must(t, x.p.NoteEvents(ctx)) // before the others: what it knows is not lost
		must(t, x.p.EnableEvents(ctx))
		count(x.p, 0)
		was := x.p.MustStatus().Executed
		must(t, x.p.EnableEvents(ctx))
		must(t, x.p.NoteEvents(ctx))
		wantSet(t, "done already", x.p.MustStatus().Executed, was)
		must(t, x.r.Follow(ctx, x.p.Source(), true))
		mysqltest.CaughtUp(t, x.p, x.r)
		count(x.r, 4)
		if got := look(x.p); got != states {
			t.Errorf("after the promotion:\n%swant\n%s", got, states)
		}
		for _, n := range nodes {
			if got := n.Rows(rest); got != before {
				t.Errorf("changed:\n%s\n%s", before, got)
			}
		}
	}
	// What a person enables or drops is forgotten.
	x.p.Exec("ALTER EVENT app.stopped ENABLE", "DROP EVENT app.never")
	must(t, x.p.NoteEvents(ctx))
	if got := x.p.Rows("SELECT * FROM ha.event_off"); strings.TrimSpace(got) != "" {
		t.Errorf("still noted: %s", got)
	}
}
