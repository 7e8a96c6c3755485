package backup

import (
	"context"
	"fmt"
	"time"

	"ha/agent/api"
	"ha/agent/stream"
	"ha/xtra"
)

// during runs one phase and says meanwhile how it goes: so the client knows that the
// donor lives, and the donor that the client does.
func during(ctx context.Context, s *xtra.Sender, phase string, run func(ctx context.Context, report func(done, total int64)) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now := make(chan api.BackupProgress, 1)
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, func(bytes, total int64) {
			select {
			case <-now:
			default:
			}
			now <- api.BackupProgress{Phase: phase, Done: bytes, Total: total}
		})
	}()
	at := api.BackupProgress{Phase: phase}
	tick := time.NewTicker(stream.Beat)
	defer tick.Stop()
	var lost error
	for {
		if lost == nil {
			if lost = s.Note(stream.NoteProgress, at); lost != nil {
				cancel() // and wait: what runs leaves files
			}
		}
		select {
		case err := <-done:
			if lost != nil {
				return fmt.Errorf("the client is gone: %w", lost)
			}
			return err
		case <-tick.C:
			select {
			case at = <-now:
			default:
			}
		}
	}
}
