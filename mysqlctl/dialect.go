package mysqlctl

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// dialect knows the words of one server version. MySQL renamed them in steps:
// 8.0.22 statements (START REPLICA), 8.0.23 CHANGE REPLICATION SOURCE, 8.0.26
// variables and plugins, 8.2 binary log statements; 8.4 took the old ones away.
type dialect struct {
	major, minor, patch int
	source, replica     string // in names of variables and plugins: source or master, replica or slave
}

var versionPattern = regexp.MustCompile(`(\d+)\.(\d+)\.(\d+)`)

// dialectOf returns the words for a version like "9.7.4-2" or "8.0.36-log".
func dialectOf(version string) (dialect, error) {
	m := versionPattern.FindStringSubmatch(version)
	if m == nil || strings.Contains(strings.ToLower(version), "mariadb") {
		return dialect{}, fmt.Errorf("%w: %q", ErrUnsupported, version)
	}
	var d dialect
	d.major, _ = strconv.Atoi(m[1])
	d.minor, _ = strconv.Atoi(m[2])
	d.patch, _ = strconv.Atoi(m[3])
	if !d.atLeast(5, 7, 0) {
		return dialect{}, fmt.Errorf("%w: %q is older than 5.7", ErrUnsupported, version)
	}
	d.source, d.replica = "source", "replica"
	if !d.atLeast(8, 0, 26) {
		d.source, d.replica = "master", "slave"
	}
	return d, nil
}

func (d dialect) atLeast(major, minor, patch int) bool {
	if d.major != major {
		return d.major > major
	}
	if d.minor != minor {
		return d.minor > minor
	}
	return d.patch >= patch
}

// replicaWord is the word in statements: START REPLICA or START SLAVE.
func (d dialect) replicaWord() string {
	if d.atLeast(8, 0, 22) {
		return "REPLICA"
	}
	return "SLAVE"
}

func (d dialect) showReplica() string           { return "SHOW " + d.replicaWord() + " STATUS" }
func (d dialect) startReceiver() string         { return "START " + d.replicaWord() + " IO_THREAD" }
func (d dialect) stopReceiver() string          { return "STOP " + d.replicaWord() + " IO_THREAD" }
func (d dialect) startApplier() string          { return "START " + d.replicaWord() + " SQL_THREAD" }
func (d dialect) stopApplier() string           { return "STOP " + d.replicaWord() + " SQL_THREAD" }
func (d dialect) resetReplicaAll() string       { return "RESET " + d.replicaWord() + " ALL" }
func (d dialect) semiSource() string            { return "rpl_semi_sync_" + d.source + "_enabled" }
func (d dialect) semiSourceVar(n string) string { return "rpl_semi_sync_" + d.source + "_" + n }
func (d dialect) semiReplica() string           { return "rpl_semi_sync_" + d.replica + "_enabled" }

// waitCount is the variable that says how many acknowledgements a commit needs.
func (d dialect) waitCount() string {
	return d.semiSourceVar("wait_for_" + d.replica + "_count")
}

func (d dialect) waitNoReplica() string { return d.semiSourceVar("wait_no_" + d.replica) }

// showBinlog is the statement for the end of the binary log. It hangs behind a
// rotation that waits for commits; this package does not use it.
func (d dialect) showBinlog() string {
	if d.atLeast(8, 2, 0) {
		return "SHOW BINARY LOG STATUS"
	}
	return "SHOW MASTER STATUS"
}

func (d dialect) resetBinlogs() string {
	if d.atLeast(8, 2, 0) {
		return "RESET BINARY LOGS AND GTIDS"
	}
	return "RESET MASTER"
}

// option is one assignment of CHANGE REPLICATION SOURCE. Its name is without the
// word SOURCE_ or MASTER_; an empty value leaves the option out.
type option struct{ name, value string }

// changeSource builds CHANGE REPLICATION SOURCE TO.
func (d dialect) changeSource(options ...option) string {
	statement, word := "CHANGE REPLICATION SOURCE TO ", "SOURCE"
	if !d.atLeast(8, 0, 23) {
		statement, word = "CHANGE MASTER TO ", "MASTER"
	}
	var set []string
	for _, o := range options {
		switch {
		case o.value == "" || o.name == "GET_PUBLIC_KEY" && !d.atLeast(8, 0, 4):
		case o.name == "GET_PUBLIC_KEY":
			set = append(set, "GET_"+word+"_PUBLIC_KEY="+o.value)
		default:
			set = append(set, word+"_"+o.name+"="+o.value)
		}
	}
	return statement + strings.Join(set, ", ")
}

// plugins is the value of --plugin-load-add.
func (d dialect) plugins() string {
	files := fmt.Sprintf("rpl_semi_sync_%[1]s=semisync_%[1]s.so;rpl_semi_sync_%[2]s=semisync_%[2]s.so", d.source, d.replica)
	if d.hasClone() {
		files += ";clone=mysql_clone.so"
	}
	return files
}

func (d dialect) hasClone() bool { return d.atLeast(8, 0, 17) }

// commitsInOrder says whether a parallel applier keeps the order of commits unless told
// otherwise.
func (d dialect) commitsInOrder() bool { return d.atLeast(8, 0, 27) }

// hasQueueTimes: performance_schema says when transactions arrived.
func (d dialect) hasQueueTimes() bool { return d.atLeast(8, 0, 1) }

// hasDynamicPrivileges: BACKUP_ADMIN and the like; before, SUPER was all there was.
func (d dialect) hasDynamicPrivileges() bool { return d.atLeast(8, 0, 17) }

// definerPrivileges are those to keep another account as a definer, also one that does
// not exist.
func (d dialect) definerPrivileges() string {
	if d.atLeast(8, 2, 0) {
		return "SET_ANY_DEFINER, ALLOW_NONEXISTENT_DEFINER"
	}
	return "SET_USER_ID"
}

// flag names a start option that was renamed with the variables.
func (d dialect) flag(modern, old string) string {
	if d.atLeast(8, 0, 26) {
		return modern
	}
	return old
}

// quote makes a string literal. Our sessions do not run with NO_BACKSLASH_ESCAPES.
func quote(s string) string {
	r := strings.NewReplacer(`\`, `\\`, `'`, `''`, "\x00", `\0`, "\n", `\n`, "\r", `\r`, "\x1a", `\Z`)
	return "'" + r.Replace(s) + "'"
}
