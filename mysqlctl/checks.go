package mysqlctl

import (
	"fmt"
	"strings"
)

// check is a variable that a promise rests on.
type check struct {
	code string
	name string // as it is called now
	old  string // as it was called before 8.0.26, if otherwise
	want []string
	why  string
}

var checks = []check{
	{"HA-GTID-OFF", "gtid_mode", "", []string{"ON"}, "positions cannot be compared"},
	{"HA-GTID-OFF", "enforce_gtid_consistency", "", []string{"ON"}, "some statements are not safe with GTIDs"},
	{"HA-BINLOG-OFF", "log_bin", "", []string{"ON"}, "it cannot become primary"},
	{"HA-BINLOG-OFF", "log_replica_updates", "log_slave_updates", []string{"ON"}, "as a primary it could not serve what it applied"},
	{"HA-BINLOG-FORMAT", "binlog_format", "", []string{"ROW"}, "replicas may compute other rows"},
	{"HA-SYNC-BINLOG", "sync_binlog", "", []string{"1"}, "a power loss takes acknowledged commits"},
	{"HA-FLUSH-LOG", "innodb_flush_log_at_trx_commit", "", []string{"1"}, "a power loss takes acknowledged commits"},
	{"HA-DOUBLEWRITE", "innodb_doublewrite", "", []string{"ON", "DETECT_AND_RECOVER"}, "a power loss may tear pages"},
	{"HA-SYNC-RELAY", "sync_relay_log", "", []string{"1"}, "a power loss takes what it has acknowledged"},
	{"HA-RELAY-RECOVERY", "relay_log_recovery", "", []string{"OFF"}, "a restart throws away what it has acknowledged"},
	{"HA-COMMIT-ORDER", "replica_preserve_commit_order", "slave_preserve_commit_order", []string{"ON"}, "its executed set has gaps while it applies"},
	{"HA-OFFLINE-MODE", "offline_mode", "", []string{"OFF"}, "replicas and applications are kept out"},
	{"HA-WAIT-POINT", "rpl_semi_sync_source_wait_point", "rpl_semi_sync_master_wait_point", []string{"AFTER_SYNC"}, "others see rows that no replica has"},
	{"HA-WAIT-NO-REPLICA", "rpl_semi_sync_source_wait_no_replica", "rpl_semi_sync_master_wait_no_slave", []string{"ON"}, "commits stop waiting when replicas leave"},
}

// checkedNames is the list of variables for an SQL IN.
var checkedNames = func() string {
	names := []string{"'read_only'", "'super_read_only'", "'" + autoPurge + "'", "'" + expireSeconds + "'", "'" + expireDays + "'"}
	for _, c := range checks {
		names = append(names, "'"+c.name+"'")
		if c.old != "" {
			names = append(names, "'"+c.old+"'")
		}
	}
	return strings.Join(names, ", ")
}()

// problems compares the variables with what the promises need.
func problems(info serverInfo, globals map[string]string, r *ReplicaStatus) []Problem {
	var found []Problem
	for _, c := range checks {
		value, ok := globals[c.name]
		if !ok && c.old != "" {
			value, ok = globals[c.old]
		}
		if !ok { // not in this version, or its plugin is not loaded: reported below
			continue
		}
		right := false
		for _, want := range c.want {
			right = right || strings.EqualFold(value, want)
		}
		if !right {
			found = append(found, Problem{c.code, fmt.Sprintf("%s is %s, not %s: %s", c.name, value, c.want[0], c.why)})
		}
	}
	if !info.source || !info.replica {
		found = append(found, Problem{"HA-NO-SEMISYNC", "a semi-sync plugin is not loaded: commits cannot wait for acknowledgements"})
	}
	if r == nil {
		return found
	}
	if r.Channels > 1 {
		found = append(found, Problem{"HA-CHANNELS", fmt.Sprintf("%d replication channels: one is right", r.Channels)})
	}
	if r.Delay > 0 {
		found = append(found, Problem{"HA-DELAY", fmt.Sprintf("the applier is delayed by %s on purpose", r.Delay)})
	}
	if r.Filtered {
		found = append(found, Problem{"HA-FILTER", "a replication filter leaves out data: it acknowledges what it does not hold"})
	}
	if !r.AutoPos {
		found = append(found, Problem{"HA-AUTO-POSITION", "the channel does not use GTID auto-positioning"})
	}
	return found
}
