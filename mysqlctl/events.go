package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// A scheduled event runs on the primary only: MySQL marks it as disabled where it
// arrives by replication, and nobody takes the mark away when that server is
// promoted. The same mark covers events that a person had disabled (tried on 9.7): a
// replica cannot tell them from the others. So the primary notes those in a table of
// its own, which is replicated.

// eventStates are those of an event that came by replication.
const eventStates = "('REPLICA_SIDE_DISABLED', 'SLAVESIDE_DISABLED')"

// eventsOff is the table of events that a person has disabled. It is made when there
// is one.
const eventsOff = "CREATE TABLE IF NOT EXISTS ha.event_off (db VARCHAR(64) NOT NULL, name VARCHAR(64) NOT NULL, PRIMARY KEY (db, name)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"

// DisabledEvents counts the events that are disabled as they came by replication:
// all on a replica, and none on a primary after EnableEvents. 1 ms.
func (s *Server) DisabledEvents(ctx context.Context) (n int, err error) {
	err = s.readOne(ctx, []any{&n}, "SELECT COUNT(*) FROM information_schema.EVENTS WHERE STATUS IN "+eventStates)
	return n, err
}

// NoteEvents notes on the writable primary which events a person has disabled, for
// the server that is primary next. Now and then is often enough: one that was
// disabled since, and not noted, is enabled by a failover. It writes nothing if all
// is noted; what it writes waits for acknowledgements like any commit.
func (s *Server) NoteEvents(ctx context.Context) error {
	noted, err := s.notedEvents(ctx)
	if err != nil {
		return fmt.Errorf("note events: %w", err)
	}
	off := make(map[eventName]bool)
	events, err := s.events(ctx)
	if err != nil {
		return fmt.Errorf("note events: %w", err)
	}
	var statements []string
	for _, e := range events {
		// One that waits for EnableEvents is as it was noted.
		off[e.eventName] = e.status == "DISABLED" || e.replicaSide() && noted[e.eventName]
		if off[e.eventName] && !noted[e.eventName] {
			statements = append(statements, "INSERT IGNORE INTO ha.event_off VALUES ("+quote(e.db)+", "+quote(e.name)+")")
		}
	}
	if len(statements) > 0 && len(noted) == 0 {
		statements = append([]string{eventsOff}, statements...)
	}
	for e := range noted {
		if !off[e] {
			statements = append(statements, "DELETE FROM ha.event_off WHERE db = "+quote(e.db)+" AND name = "+quote(e.name))
		}
	}
	for _, statement := range statements {
		if err := s.commit(ctx, statement); err != nil {
			return fmt.Errorf("note events: %w", readOnly(err))
		}
	}
	return nil
}

// EnableEvents gives the events that came by replication their own state on the
// writable primary: enabled, or disabled where a person had done that (NoteEvents).
// Their definers stay, also those that do not exist. Each is one commit, and waits for
// acknowledgements like any. Nothing to do where there is none. ErrReadOnly where the
// server cannot write. An event that cannot be changed does not keep the rest.
func (s *Server) EnableEvents(ctx context.Context) error {
	events, err := s.events(ctx)
	if err != nil {
		return fmt.Errorf("enable events: %w", err)
	}
	noted, err := s.notedEvents(ctx)
	if err != nil {
		return fmt.Errorf("enable events: %w", err)
	}
	var failed []error
	for _, e := range events {
		if !e.replicaSide() {
			continue
		}
		state := "ENABLE"
		if noted[e.eventName] {
			state = "DISABLE"
		}
		err := s.commit(ctx, "ALTER DEFINER = "+e.definerClause()+" EVENT "+backquote(e.db)+"."+backquote(e.name)+" "+state)
		switch {
		case err == nil, isError(err, errNoSuchEvent): // it ended meanwhile
		case isError(err, errReadOnly), ctx.Err() != nil:
			return fmt.Errorf("enable events: %w", readOnly(err))
		default:
			failed = append(failed, fmt.Errorf("enable event %s.%s: %w", e.db, e.name, err))
		}
	}
	return errors.Join(failed...)
}

const errNoSuchEvent = 1539

type eventName struct{ db, name string }

type scheduledEvent struct {
	eventName
	definer string // user@host
	status  string
}

func (e scheduledEvent) replicaSide() bool { return strings.Contains(eventStates, "'"+e.status+"'") }

func (e scheduledEvent) definerClause() string {
	at := max(strings.LastIndexByte(e.definer, '@'), 0) // a user may have one in the name, a host may not
	return backquote(e.definer[:at]) + "@" + backquote(strings.TrimPrefix(e.definer[at:], "@"))
}

func backquote(name string) string { return "`" + strings.ReplaceAll(name, "`", "``") + "`" }

func (s *Server) events(ctx context.Context) ([]scheduledEvent, error) {
	var events []scheduledEvent
	err := s.read(ctx, func(rows *sql.Rows) error {
		events = nil
		for rows.Next() {
			var e scheduledEvent
			if err := rows.Scan(&e.db, &e.name, &e.definer, &e.status); err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	}, "SELECT EVENT_SCHEMA, EVENT_NAME, DEFINER, STATUS FROM information_schema.EVENTS ORDER BY EVENT_SCHEMA, EVENT_NAME")
	return events, err
}

func (s *Server) notedEvents(ctx context.Context) (map[eventName]bool, error) {
	noted := make(map[eventName]bool)
	var tables int
	err := s.readOne(ctx, []any{&tables}, "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'ha' AND TABLE_NAME = 'event_off'")
	if err != nil || tables == 0 {
		return noted, err
	}
	return noted, s.read(ctx, func(rows *sql.Rows) error {
		for rows.Next() {
			var e eventName
			if err := rows.Scan(&e.db, &e.name); err != nil {
				return err
			}
			noted[e] = true
		}
		return nil
	}, "SELECT db, name FROM ha.event_off")
}
