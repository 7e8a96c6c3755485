package mysqlctl

import (
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ha/mysqlctl/gtid"
)

// Status is what a server says of itself at one moment.
type Status struct {
	ServerUUID string `json:"server_uuid"`
	Version    string `json:"version"`
	// ReadOnly and SuperReadOnly are the variables. They prove nothing: they read
	// 1 while the SET still waits behind a commit. See Fence.
	ReadOnly      bool `json:"read_only"`
	SuperReadOnly bool `json:"super_read_only"`

	Executed gtid.Set       `json:"executed"` // read after Received
	Received gtid.Set       `json:"received"` // of all channels; complete transactions only
	Replica  *ReplicaStatus `json:"replica,omitempty"`
	// ReplicaAck: the receiver acknowledges (Rpl_semi_sync_replica_status). It is
	// what counts; the flag alone changes nothing while the receiver runs.
	ReplicaAck bool `json:"replica_ack"`
	// ReplicaAckWanted is that flag (rpl_semi_sync_replica_enabled).
	ReplicaAckWanted bool         `json:"replica_ack_wanted"`
	Source           SourceStatus `json:"source"`
	// Waiting counts sessions that wait for an acknowledgement, those behind them
	// in the commit queue, and KILLed ones that wait on.
	Waiting     int           `json:"waiting"`
	WaitingFor  time.Duration `json:"waiting_for"` // the longest of them, since its statement began
	DumpThreads []DumpThread  `json:"dump_threads,omitempty"`
	Problems    []Problem     `json:"problems,omitempty"`
	Uptime      time.Duration `json:"uptime"` // whole seconds
	// NoClone: it could give and make copies by CLONE, but the plugin is not active.
	NoClone bool `json:"no_clone,omitempty"`
}

// ReplicaStatus is the state of replication, where a channel is set up. With
// several channels it is that of the first, and Channels says so.
type ReplicaStatus struct {
	SourceHost string `json:"source_host"`
	SourcePort int    `json:"source_port"`
	SourceUUID string `json:"source_uuid"`
	User       string `json:"user"`
	IOState    string `json:"io_state"`  // Yes, No or Connecting
	SQLState   string `json:"sql_state"` // Yes or No

	IOError  ReplicaError `json:"io_error"`
	SQLError ReplicaError `json:"sql_error"`

	QueueingGTID string `json:"queueing_gtid,omitempty"` // the transaction that is half received
	// HeartbeatAge is how long ago anything came from the source: a transaction, a
	// part of one, or a heartbeat. Negative if nothing ever did.
	HeartbeatAge time.Duration `json:"heartbeat_age"`
	// Lag is how far the applier is behind the source's clock, in whole seconds;
	// negative if it is not known: the applier, or an idle receiver, stands.
	Lag      time.Duration `json:"lag"`
	Delay    time.Duration `json:"delay"`    // SOURCE_DELAY
	Channels int           `json:"channels"` // 1 is right
	AutoPos  bool          `json:"auto_position"`
	Filtered bool          `json:"filtered"` // by replicate-do-db and the like
}

// ReplicaError is the last error of a replication thread; Number 0 means none.
type ReplicaError struct {
	Number int    `json:"number"`
	Text   string `json:"text,omitempty"`
}

// SourceStatus is the source side of semi-sync.
type SourceStatus struct {
	Plugin       bool  `json:"plugin"`  // loaded
	Enabled      bool  `json:"enabled"` // the variable
	On           bool  `json:"on"`      // the status: commits do wait
	WaitForCount int   `json:"wait_for_count"`
	Clients      int   `json:"clients"` // lags by up to a second: see DumpThreads
	NoTx         int64 `json:"no_tx"`   // commits acknowledged without acks since the start
	YesTx        int64 `json:"yes_tx"`
	WaitSessions int   `json:"wait_sessions"` // heads of the queue only; see Status.Waiting
}

// DumpThread is a replica that is attached. One that has reconnected is listed twice
// until the source notices, which takes up to a second.
type DumpThread struct {
	ReplicaUUID string `json:"replica_uuid"`
	User        string `json:"user"`
	Host        string `json:"host"`
	SemiSync    bool   `json:"semi_sync"` // it acknowledges
}

// Problem is a setting that breaks a promise. Code is stable.
type Problem struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// waitingStates are the states of a commit that is in the binary log and not
// acknowledged: the head of the queue has the first, all behind it the second.
const waitingStates = "('Waiting for semi-sync ACK from replica', 'Waiting for semi-sync ACK from slave', 'waiting for handler commit')"

// Status reads the server's state in one round trip. It never blocks behind
// commits that wait: SHOW BINARY LOG STATUS and performance_schema.log_status do,
// and are not used.
func (s *Server) Status(ctx context.Context) (Status, error) {
	var st Status
	sets, err := s.readSets(ctx, s.statusQuery())
	if err != nil {
		return st, err
	}
	s.mu.Lock()
	info := s.info
	s.mu.Unlock()
	st.ServerUUID, st.Version = info.uuid, info.version
	st.NoClone = info.dialect.hasClone() && !info.hasClone
	globals := make(map[string]string)
	for _, row := range sets["global"] {
		globals[strings.ToLower(row["name"])] = row["value"]
	}
	info.addVariables(globals, sets["variable"])
	if rows := sets["now"]; len(rows) == 1 {
		for name, value := range rows[0] {
			globals[name] = value
		}
	}
	st.ReadOnly, st.SuperReadOnly = isOn(globals["read_only"]), isOn(globals["super_read_only"])
	st.Uptime = time.Duration(number(globals["uptime"])) * time.Second
	if st.Executed, err = gtid.Parse(globals["executed"]); err != nil {
		return st, err
	}
	for _, row := range sets["replica"] {
		set, err := gtid.Parse(row["Retrieved_Gtid_Set"])
		if err != nil {
			return st, err
		}
		st.Received = st.Received.Union(set)
	}
	st.Replica = s.replicaStatus(sets["replica"], sets["receiver"])
	st.ReplicaAck = isOn(globals["rpl_semi_sync_"+info.dialect.replica+"_status"])
	st.ReplicaAckWanted = isOn(globals[info.dialect.semiReplica()])
	st.Source = sourceStatus(info, globals)
	st.threads(sets["thread"])
	// One of our own account is no replica's: see Dump.
	st.DumpThreads = slices.DeleteFunc(st.DumpThreads, func(d DumpThread) bool { return d.User == s.cfg.Account.User })
	st.Problems = problems(info, globals, st.Replica)
	s.upkeep(ctx)
	return st, nil
}

// Checks returns the settings that break a promise, the same as in Status.
func (s *Server) Checks(ctx context.Context) ([]Problem, error) {
	st, err := s.Status(ctx)
	return st.Problems, err
}

// statusQuery is several statements in one. Received is read before Executed, so
// that a transaction which moves from one to the other meanwhile is in both.
func (s *Server) statusQuery() string {
	s.mu.Lock()
	info := s.info
	s.mu.Unlock()
	d := info.dialect
	arrived, queueing := "LAST_HEARTBEAT_TIMESTAMP", "''"
	if d.hasQueueTimes() {
		arrived = "GREATEST(LAST_HEARTBEAT_TIMESTAMP, LAST_QUEUED_TRANSACTION_END_QUEUE_TIMESTAMP, QUEUEING_TRANSACTION_START_QUEUE_TIMESTAMP)"
		queueing = "QUEUEING_TRANSACTION"
	}
	return d.showReplica() + `;
SELECT 'receiver' AS kind, CHANNEL_NAME AS channel, ` + queueing + ` AS queueing,
 COUNT_RECEIVED_HEARTBEATS AS beats, IF(` + arrived + ` = 0, -1, TIMESTAMPDIFF(MICROSECOND, ` + arrived + `, NOW(6))) AS age
 FROM performance_schema.replication_connection_status;
SELECT 'thread' AS kind, t.PROCESSLIST_ID AS id, t.PROCESSLIST_USER AS "user", t.PROCESSLIST_HOST AS host,
 t.PROCESSLIST_STATE AS state, t.PROCESSLIST_TIME AS seconds, e.TIMER_WAIT AS picoseconds, u.VARIABLE_NAME AS name, u.VARIABLE_VALUE AS value
 FROM performance_schema.threads t
 LEFT JOIN performance_schema.events_statements_current e ON e.THREAD_ID = t.THREAD_ID AND e.NESTING_EVENT_ID IS NULL
 LEFT JOIN performance_schema.user_variables_by_thread u ON u.THREAD_ID = t.THREAD_ID AND t.PROCESSLIST_STATE NOT IN ` + waitingStates + `
 WHERE t.PROCESSLIST_COMMAND LIKE 'Binlog Dump%' OR t.PROCESSLIST_STATE IN ` + waitingStates + ` AND ` + isClient + `;
SELECT 'global' AS kind, VARIABLE_NAME AS name, VARIABLE_VALUE AS value FROM performance_schema.global_status WHERE VARIABLE_NAME LIKE 'Rpl_semi_sync%' OR VARIABLE_NAME = 'Uptime';
` + info.selectVariables() + `;
SELECT 'now' AS kind, @@global.gtid_executed AS executed`
}

// row is one row by column name; NULL is "".
type row map[string]string

// readSets runs a multi-statement and returns its rows by their column "kind"; those
// of SHOW REPLICA STATUS, which has none, under "replica" and in modern words.
func (s *Server) readSets(ctx context.Context, query string) (map[string][]row, error) {
	var sets map[string][]row
	err := s.read(ctx, func(rows *sql.Rows) error {
		sets = make(map[string][]row)
		for {
			columns, err := rows.Columns()
			if err != nil {
				return err
			}
			for i, name := range columns {
				columns[i] = modernWords.Replace(name)
			}
			values := make([]sql.NullString, len(columns))
			dest := make([]any, len(columns))
			for i := range values {
				dest[i] = &values[i]
			}
			for rows.Next() {
				if err := rows.Scan(dest...); err != nil {
					return err
				}
				r := make(row, len(columns))
				for i, name := range columns {
					r[name] = values[i].String
				}
				kind := r["kind"]
				if kind == "" {
					kind = "replica"
				}
				sets[kind] = append(sets[kind], r)
			}
			if !rows.NextResultSet() {
				return rows.Err()
			}
		}
	}, query)
	return sets, err
}

// modernWords turns a column of SHOW SLAVE STATUS into that of SHOW REPLICA
// STATUS. Made once: it is used some hundred times a second.
var modernWords = strings.NewReplacer("Master", "Source", "Slave", "Replica")

// receiving remembers when the receiver last moved. performance_schema does not
// say when the last piece of a long transaction came.
type receiving struct {
	mu    sync.Mutex
	place string
	since time.Time
}

// age returns how long ago place changed before the eyes of this Server.
func (r *receiving) age(place string) (time.Duration, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.place != place {
		first := r.place == ""
		r.place, r.since = place, time.Now()
		if first {
			r.since = time.Time{}
		}
	}
	return time.Since(r.since), !r.since.IsZero()
}

func (s *Server) replicaStatus(channels, receivers []row) *ReplicaStatus {
	if len(channels) == 0 {
		return nil
	}
	c := channels[0]
	r := &ReplicaStatus{
		SourceHost: c["Source_Host"], SourcePort: int(number(c["Source_Port"])), SourceUUID: c["Source_UUID"],
		User: c["Source_User"], IOState: c["Replica_IO_Running"], SQLState: c["Replica_SQL_Running"],
		IOError:      ReplicaError{int(number(c["Last_IO_Errno"])), c["Last_IO_Error"]},
		SQLError:     ReplicaError{int(number(c["Last_SQL_Errno"])), c["Last_SQL_Error"]},
		HeartbeatAge: -1, Lag: -1,
		Delay:    time.Duration(number(c["SQL_Delay"])) * time.Second,
		Channels: len(channels), AutoPos: c["Auto_Position"] == "1",
	}
	for name, value := range c {
		r.Filtered = r.Filtered || strings.HasPrefix(name, "Replicate_") && name != "Replicate_Ignore_Server_Ids" && value != ""
	}
	if c["Seconds_Behind_Source"] != "" {
		r.Lag = time.Duration(number(c["Seconds_Behind_Source"])) * time.Second
	}
	beats := ""
	for _, rc := range receivers {
		if rc["channel"] == c["Channel_Name"] {
			r.QueueingGTID, beats = rc["queueing"], rc["beats"]
			if age := number(rc["age"]); age >= 0 {
				r.HeartbeatAge = time.Duration(age) * time.Microsecond
			}
		}
	}
	place := strings.Join([]string{r.SourceUUID, c["Source_Log_File"], c["Read_Source_Log_Pos"], c["Retrieved_Gtid_Set"], beats}, " ")
	if age, ok := s.receiving.age(place); ok && (r.HeartbeatAge < 0 || age < r.HeartbeatAge) {
		r.HeartbeatAge = age
	}
	return r
}

func sourceStatus(info serverInfo, globals map[string]string) SourceStatus {
	name := "rpl_semi_sync_" + info.dialect.source + "_"
	return SourceStatus{
		Plugin:       info.source,
		Enabled:      isOn(globals[name+"enabled"]),
		On:           isOn(globals[name+"status"]),
		WaitForCount: int(number(globals[info.dialect.waitCount()])),
		Clients:      int(number(globals[name+"clients"])),
		NoTx:         number(globals[name+"no_tx"]),
		YesTx:        number(globals[name+"yes_tx"]),
		WaitSessions: int(number(globals[name+"wait_sessions"])),
	}
}

// threads sorts the rows of threads, of which dump threads have one per variable.
func (st *Status) threads(rows []row) {
	dumps := make(map[string]int)
	for _, r := range rows {
		if strings.Contains(waitingStates, "'"+r["state"]+"'") && r["state"] != "" {
			st.Waiting++
			wait := time.Duration(number(r["seconds"])) * time.Second
			if ps := number(r["picoseconds"]); ps > 0 {
				wait = time.Duration(ps / 1000)
			}
			st.WaitingFor = max(st.WaitingFor, wait)
			continue
		}
		i, ok := dumps[r["id"]]
		if !ok {
			i = len(st.DumpThreads)
			dumps[r["id"]] = i
			st.DumpThreads = append(st.DumpThreads, DumpThread{User: r["user"], Host: r["host"]})
		}
		switch r["name"] {
		case "replica_uuid", "slave_uuid":
			st.DumpThreads[i].ReplicaUUID = strings.ToLower(r["value"])
		case "rpl_semi_sync_replica", "rpl_semi_sync_slave":
			st.DumpThreads[i].SemiSync = r["value"] != "" && r["value"] != "0"
		}
	}
}

func isOn(value string) bool { return value == "ON" || value == "1" || value == "YES" }

// number reads an integer, 0 if it is none.
func number(value string) int64 {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		f, _ := strconv.ParseFloat(value, 64)
		return int64(f)
	}
	return n
}
