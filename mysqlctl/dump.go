package mysqlctl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"ha/mysqlctl/gtid"
)

const (
	// dumpServerID is that of a dump, which is no server.
	dumpServerID = 1<<32 - 2
	// dumpBeat is how often a server that has nothing to send says so.
	dumpBeat = time.Second
	// dumpSilence ends a dump of which nothing is heard.
	dumpSilence = 30 * time.Second
)

// Sent is one event that a dump sends, as it is in the server's binary log.
type Sent struct {
	Raw    []byte // valid until the call returns
	Format bool   // it describes those that follow
	Idle   bool   // the server has no more at the moment
	Begins *Begun // it is the first of a transaction
}

// Begun says which transaction begins.
type Begun struct {
	UUID   string // in lower case
	Tag    string
	Number uint64
	At     time.Time // when it was committed where it was first
	Length int64     // of all its events, this one included
}

func (b *Begun) String() string {
	if b.Tag != "" {
		return fmt.Sprintf("%s:%s:%d", b.UUID, b.Tag, b.Number)
	}
	return fmt.Sprintf("%s:%d", b.UUID, b.Number)
}

// History returns what the server has executed, and what of that is in its binary
// logs no longer.
func (s *Server) History(ctx context.Context) (executed, purged gtid.Set, err error) {
	var texts [2]string
	if err = s.readOne(ctx, []any{&texts[0], &texts[1]}, "SELECT @@global.gtid_executed, @@global.gtid_purged"); err != nil {
		return executed, purged, fmt.Errorf("history: %w", err)
	}
	if executed, err = gtid.Parse(texts[0]); err == nil {
		purged, err = gtid.Parse(texts[1])
	}
	return executed, purged, err
}

// Dump has the server send its binary logs without the transactions of have, as to a
// replica that does not acknowledge, and calls each for every event, in one goroutine,
// until ctx ends or an error. The server waits while each does: it may take its time,
// but for net_write_timeout. The connection is one of the agent's account, which
// whoever ends that account's sessions ends as well.
func (s *Server) Dump(ctx context.Context, have gtid.Set, each func(Sent) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dialed := false
	cfg := replication.BinlogSyncerConfig{
		ServerID: dumpServerID, Flavor: mysql.MySQLFlavor, Host: s.cfg.Socket, User: s.cfg.Account.User, Password: s.cfg.Account.Password,
		RawModeEnabled: true, VerifyChecksum: true, DisableRetrySync: true, DiscardGTIDSet: true,
		HeartbeatPeriod: dumpBeat, ReadTimeout: dumpSilence, Logger: slog.New(slog.DiscardHandler),
		// One connection, which ends with ctx: to close is to end it, without a KILL.
		Dialer: func(dctx context.Context, network, addr string) (net.Conn, error) {
			if dialed {
				return nil, net.ErrClosed
			}
			dialed = true
			conn, err := (&net.Dialer{}).DialContext(dctx, network, addr)
			if err == nil {
				context.AfterFunc(ctx, func() { _ = conn.Close() })
			}
			return conn, err
		},
		SynchronousEventHandler: &dumpHandler{each: each, parser: replication.NewBinlogParser()},
	}
	syncer := replication.NewBinlogSyncer(cfg)
	stream, err := syncer.StartSyncGTID(dumpSet{have})
	if err == nil {
		// It says when its goroutine has ended, whatever the reason.
		_, err = stream.GetEvent(context.Background())
	}
	reason := ctx.Err()
	cancel()
	syncer.Close()
	if reason != nil {
		return reason
	}
	return fmt.Errorf("dump: %w", err)
}

// dumpHandler tells events apart.
type dumpHandler struct {
	each   func(Sent) error
	parser *replication.BinlogParser
}

func (h *dumpHandler) HandleEvent(e *replication.BinlogEvent) error {
	sent := Sent{Raw: e.RawData}
	switch e.Header.EventType {
	case replication.FORMAT_DESCRIPTION_EVENT:
		sent.Format = true
		if _, err := h.parser.Parse(e.RawData); err != nil {
			return err
		}
	case replication.HEARTBEAT_EVENT, replication.HEARTBEAT_LOG_EVENT_V2:
		sent.Idle = true
	case replication.ROTATE_EVENT, replication.PREVIOUS_GTIDS_EVENT, replication.STOP_EVENT:
		return nil // of the server's files, and not of its transactions
	case replication.GTID_EVENT, replication.GTID_TAGGED_LOG_EVENT:
		parsed, err := h.parser.Parse(e.RawData)
		if err != nil {
			return err
		}
		g, err := gtidOf(parsed.Event)
		if err != nil {
			return err
		}
		sent.Begins = &Begun{UUID: uuidText(g.SID), Tag: g.Tag.String(), Number: uint64(g.GNO), At: committed(g), Length: int64(g.TransactionLength)}
	}
	return h.each(sent)
}

// gtidOf gives the GTID of the event that begins a transaction.
func gtidOf(parsed replication.Event) (replication.GTIDEvent, error) {
	switch e := parsed.(type) {
	case *replication.GTIDEvent:
		return *e, nil
	case *replication.GtidTaggedLogEvent:
		return e.GTIDEvent, nil
	}
	return replication.GTIDEvent{}, fmt.Errorf("%w: %T where a transaction begins", ErrUnreadable, parsed)
}

// dumpSet is what the server is told to leave out. go-mysql's own set writes that of
// tagged GTIDs for one server only.
type dumpSet struct{ gtid.Set }

func (s dumpSet) Encode() []byte             { return s.Binary() }
func (s dumpSet) Clone() mysql.GTIDSet       { return s }
func (s dumpSet) Update(string) error        { return errors.ErrUnsupported }
func (s dumpSet) Equal(o mysql.GTIDSet) bool { return s.String() == o.String() }
func (s dumpSet) Contain(mysql.GTIDSet) bool { return false }
