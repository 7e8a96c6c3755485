package mysqlctl

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Follow makes the server a replica of src: read-only, semi-sync source off, one
// channel with auto-positioning, the receiver connected, acknowledging if ack says
// so, and the applier running. Nothing is touched that is so already.
//
// A channel that exists is repointed receiver-only, in 20 to 30 ms: the receiver
// stops, the applier goes on. What was received and not applied is kept: with both
// threads stopped CHANGE REPLICATION SOURCE would throw it away, so a stopped
// applier is started first, and one that stands on an error with something left to
// apply is ErrApplier.
//
// A channel that the server cannot open any more (its repository and relay logs do not
// fit) is set up anew, where the server is not to acknowledge: an acker may hold in it
// what nobody else has.
//
// ErrNotFenced and ErrWaitingCommits where the server may be a primary with commits
// on their way; ErrNotConnected where all is set up and the receiver tries on, as
// the source does not answer, or not within ctx.
func (s *Server) Follow(ctx context.Context, src Source, ack bool) error {
	// Switching the source side off lets waiting commits go: there must be none.
	if err := s.Fence(ctx); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	st, err := s.Status(ctx)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	switch r := st.Replica; {
	case r == nil:
		err = s.followFirst(ctx, src, ack)
	case r.Channels > 1:
		err = fmt.Errorf("%w: %d", ErrChannels, r.Channels)
	case !r.AutoPos:
		err = fmt.Errorf("%w: the channel has no auto-positioning: reset it first", ErrApplier)
	case r.follows(src):
		err = s.followOn(ctx, st, ack)
	default:
		err = s.repoint(ctx, src, ack)
	}
	if !ack && isError(err, errSourceInit, errApplierInit) { // what was received counts for nobody
		if err = s.DiscardReceived(ctx); err == nil {
			err = s.followFirst(ctx, src, ack)
		}
	}
	if err == nil || errors.Is(err, ErrNotConnected) && ctx.Err() == nil { // what is there is applied anyway
		err = errors.Join(err, s.startApplying(ctx, st))
	}
	if err != nil {
		return fmt.Errorf("follow %s:%d: %w", src.Host, src.Port, err)
	}
	return nil
}

// clientsLeave is how long the clients of a server that was the primary a moment
// ago have to find the next one.
const clientsLeave = 500 * time.Millisecond

// startApplying starts the applier, which must not wait for acks. To switch the
// source side of a former primary off takes a second while replicas are attached,
// and until a second after: whoever logs in or reads a global variable waits for as
// long. So it comes when the receiver acknowledges and the clients have gone.
func (s *Server) startApplying(ctx context.Context, st Status) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	if st.Source.Enabled {
		if len(st.DumpThreads) > 0 && !sleep(ctx, clientsLeave) {
			return ctx.Err()
		}
		if err := s.ConfigureSource(ctx, 0); err != nil {
			return err
		}
	}
	if st.Replica != nil && st.Replica.SQLState == "Yes" {
		return nil
	}
	return s.exec(ctx, d.startApplier())
}

// follows reports whether the channel leads to src. The password cannot be read
// back: a receiver that is denied access is set up again.
func (r *ReplicaStatus) follows(src Source) bool {
	denied := r.IOState != "Yes" && r.IOError.Number == errAccessDenied
	return r.SourceHost == src.Host && r.SourcePort == src.Port && r.User == src.User && !denied
}

// receiverOptions are those that may be changed while the applier runs.
func (src Source) receiverOptions() []option {
	tls := "1"
	if src.NoTLS {
		tls = "0"
	}
	return []option{
		{"HOST", quote(src.Host)}, {"PORT", strconv.Itoa(src.Port)},
		{"USER", quote(src.User)}, {"PASSWORD", quote(src.Password)},
		{"SSL", tls}, {"GET_PUBLIC_KEY", "1"},
		{"HEARTBEAT_PERIOD", strconv.FormatFloat(src.heartbeat().Seconds(), 'f', 3, 64)},
		{"CONNECT_RETRY", "1"}, {"RETRY_COUNT", strconv.Itoa(math.MaxInt32)},
	}
}

// followFirst sets up a channel where there is none.
func (s *Server) followFirst(ctx context.Context, src Source, ack bool) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	if err := s.execWhole(ctx, d.changeSource(append(src.receiverOptions(), option{"AUTO_POSITION", "1"})...)); err != nil {
		return err
	}
	if err := s.setAckFlag(ctx, ack); err != nil {
		return err
	}
	if err := s.exec(ctx, d.startReceiver()); err != nil {
		return err
	}
	return s.awaitReceiver(ctx, ack)
}

// followOn starts what is stopped of a channel that is right.
func (s *Server) followOn(ctx context.Context, st Status, ack bool) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	if err := s.SetReplicaAck(ctx, ack); err != nil {
		return err
	}
	if st.Replica.IOState == "No" {
		if err := s.exec(ctx, d.startReceiver()); err != nil {
			return err
		}
		return s.awaitReceiver(ctx, ack)
	}
	return nil
}

// repoint leads an existing channel to another source.
func (s *Server) repoint(ctx context.Context, src Source, ack bool) error {
	d, err := s.dialect()
	if err != nil {
		return err
	}
	before, err := s.SealReplica(ctx)
	if err != nil {
		return err
	}
	if err := s.keepReceived(ctx); err != nil {
		return err
	}
	if err := s.setAckFlag(ctx, ack); err != nil {
		return err
	}
	if err := s.execWhole(ctx, d.changeSource(src.receiverOptions()...)); err != nil {
		return err
	}
	after, err := s.Position(ctx)
	if err != nil {
		return err
	}
	if lost := before.All().Minus(after.All()); !lost.IsEmpty() {
		// The applier died within the last millisecond. It must not acknowledge.
		return errors.Join(fmt.Errorf("%w: %s", ErrReceivedLost, lost), s.setAckFlag(ctx, false))
	}
	if err := s.exec(ctx, d.startReceiver()); err != nil {
		return err
	}
	return s.awaitReceiver(ctx, ack)
}

// keepReceived makes sure that CHANGE REPLICATION SOURCE throws away nothing that
// is received only: the applier runs, or has executed all.
func (s *Server) keepReceived(ctx context.Context) error {
	a, err := s.applier(ctx)
	if err != nil || a.running > 0 || a.drained() {
		return err
	}
	d, err := s.dialect()
	if err != nil {
		return err
	}
	if a.err.Number != 0 && !retryable(a.err) {
		return fmt.Errorf("%w: %d %s", ErrApplier, a.err.Number, a.err.Text)
	}
	if err := s.exec(ctx, d.startApplier()); err != nil {
		return err
	}
	a, err = s.applier(ctx)
	if err != nil || a.running > 0 || a.drained() {
		return err
	}
	return fmt.Errorf("%w: %d %s", ErrApplier, a.err.Number, a.err.Text)
}
