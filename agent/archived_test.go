package agent

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"ha/agent/archive"
	"ha/mysqlctl/gtid"
)

// A swap waits for the archive as long as it goes on, and not for one that stands.
func TestAwaitArchived(t *testing.T) {
	some, all := gtid.MustParse(uuid1+":1-5"), gtid.MustParse(uuid1+":1-9")
	const late = 5 * time.Second
	for name, tc := range map[string]struct {
		first, then archive.Status
		want        time.Duration
	}{
		"it has them": {archive.Status{Has: all}, archive.Status{Has: all}, 0},
		"soon":        {archive.Status{Has: some}, archive.Status{Has: all}, late},
		"it stands":   {archive.Status{Has: some, Code: archive.CodeFailed}, archive.Status{Has: all}, 0},
		"never":       {archive.Status{Has: some}, archive.Status{Has: some}, 3 * late},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 3*late)
				defer cancel()
				awaitArchived(ctx, func() archive.Status {
					if time.Since(began) < late {
						return tc.first
					}
					return tc.then
				}, all, slog.New(slog.DiscardHandler))
				if took := time.Since(began); took != tc.want {
					t.Errorf("waited for %s, want %s", took, tc.want)
				}
			})
		})
	}
}
