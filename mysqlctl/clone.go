package mysqlctl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
)

const (
	clonePoll   = 200 * time.Millisecond
	cloneAnswer = 2 * time.Second // bounds each question how far it is
	cloneGrace  = 5 * time.Second // a clone whose donor is dead takes 2.6 s to end after a KILL
)

// CloneProgress is how far a clone has come. Bytes are those of all stages.
type CloneProgress struct {
	Stage    string `json:"stage"` // DROP DATA, FILE COPY, PAGE COPY, REDO COPY, FILE SYNC, RESTART, RECOVERY
	State    string `json:"state"` // In Progress, Completed, Failed, Not Started
	Estimate int64  `json:"estimate"`
	Done     int64  `json:"done"`
	Network  int64  `json:"network"`
	Speed    int64  `json:"speed"` // bytes per second now
}

// Clone copies the data of src into dataDir, a directory that does not exist yet
// and whose parent mysqld may write to. This server only drives it: it goes on, and
// may be read-only and replicating. src.User needs BACKUP_ADMIN there. limit bounds
// the copy, in bytes per second, to whole MiB; 0: it is not bounded. progress, if not
// nil, is called about every 200 ms.
//
// A clone that was ended leaves its files: to remove them is the caller's. If ctx
// ends, the statement is KILLed, which takes up to 3 s with a dead donor; a frozen
// donor holds it (ErrAbandoned), and with it every later clone on this server.
func (s *Server) Clone(ctx context.Context, src Source, dataDir string, limit int64, progress func(CloneProgress)) error {
	s.mu.Lock()
	has := s.info.hasClone
	s.mu.Unlock()
	p, err := s.connected()
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("%w: the clone plugin is not loaded", ErrUnsupported)
	}
	donor := fmt.Sprintf("%s:%d", src.Host, src.Port)
	// Tuning by itself it would try out how many threads are fastest.
	tune := "ON"
	if limit > 0 {
		tune = "OFF"
	}
	mib := (limit + 1<<20 - 1) >> 20
	if err := s.exec(ctx, fmt.Sprintf("SET GLOBAL clone_valid_donor_list = %s, GLOBAL clone_max_data_bandwidth = %d, GLOBAL clone_autotune_concurrency = %s",
		quote(donor), mib, tune)); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	require := "REQUIRE SSL"
	if src.NoTLS {
		require = "REQUIRE NO SSL"
	}
	done := make(chan error, 1)
	go func() {
		keep, err := s.execOn(ctx, c, cloneGrace, fmt.Sprintf("CLONE INSTANCE FROM %s@%s:%d IDENTIFIED BY %s DATA DIRECTORY = %s %s",
			quote(src.User), quote(src.Host), src.Port, quote(src.Password), quote(dataDir), require))
		p.put(c, keep)
		done <- err
	}()
	if err := s.watchClone(ctx, done, progress); err != nil {
		return fmt.Errorf("clone from %s: %w", donor, denied(err))
	}
	return nil
}

// watchClone tells how a clone goes until it is done. A server that does not answer has
// the last that it said told again: who watches sees that nothing comes.
func (s *Server) watchClone(ctx context.Context, done <-chan error, progress func(CloneProgress)) error {
	if progress == nil {
		return <-done
	}
	tick := time.NewTicker(clonePoll)
	defer tick.Stop()
	var at CloneProgress
	look := func() {
		limited, cancel := context.WithTimeout(ctx, cloneAnswer)
		defer cancel()
		if now, err := s.cloneProgress(limited); err == nil {
			at = now
		}
		progress(at)
	}
	for {
		select {
		case err := <-done:
			if err == nil {
				look()
			}
			return err
		case <-tick.C:
			look()
		}
	}
}

// erCloneDonor is the error with which CLONE passes on what the donor said.
const erCloneDonor = 3862

// denied marks the error of a donor that refuses the account.
func denied(err error) error {
	var my *mysql.MySQLError
	if errors.As(err, &my) && my.Number == erCloneDonor && strings.Contains(my.Message, ": 1045 ") {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return err
}

func (s *Server) cloneProgress(ctx context.Context) (CloneProgress, error) {
	var at CloneProgress
	err := s.read(ctx, func(rows *sql.Rows) error {
		at = CloneProgress{}
		for rows.Next() {
			var stage, state string
			var estimate, done, network, speed int64
			if err := rows.Scan(&stage, &state, &estimate, &done, &network, &speed); err != nil {
				return err
			}
			at.Estimate += estimate
			at.Done += done
			at.Network += network
			if state != "Not Started" {
				at.Stage, at.State, at.Speed = stage, state, speed
			}
		}
		return nil
	}, "SELECT STAGE, STATE, ESTIMATE, DATA, NETWORK, DATA_SPEED FROM performance_schema.clone_progress ORDER BY BEGIN_TIME IS NULL, BEGIN_TIME")
	return at, err
}
