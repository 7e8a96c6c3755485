package mysqlctl_test

import (
	"testing"
	"time"

	"ha/mysqlctl/gtid"
	"ha/mysqlctl/mysqltest"
)

// A replica is told of transactions that its binary log never saw: it takes them for
// executed, adds none of its own, and still does after a restart.
func TestAddExecuted(t *testing.T) {
	n := mysqltest.Start(t, 1)[0]
	ctx := mysqltest.Ctx(t, time.Minute)
	before := n.MustStatus().Executed
	other := gtid.MustParse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5")
	for _, set := range []gtid.Set{other, other, gtid.MustParse("3e11fa47-71ca-11e1-9e33-c80aa9429562:3-9"), before} {
		must(t, n.AddExecuted(ctx, set))
	}
	want := before.Union(gtid.MustParse("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9"))
	st := n.MustStatus()
	if !st.Executed.Equal(want) || !st.SuperReadOnly {
		t.Errorf("executed %s, want %s; super_read_only %v", st.Executed, want, st.SuperReadOnly)
	}
	must(t, n.Stop(ctx))
	must(t, n.Start(ctx))
	if got := n.MustStatus().Executed; !got.Equal(want) {
		t.Errorf("after a restart: executed %s, want %s", got, want)
	}
}
