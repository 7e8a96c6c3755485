package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ha/agent/api"
)

const (
	minSecret = 16  // characters; `ha keygen` makes 43
	maxSocket = 107 // bytes of a unix socket's path that the kernel takes
)

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// ownOptions are mysqld's options that the agent sets itself, with the key to
// use instead, if there is one.
var ownOptions = map[string]string{
	"basedir": "", "datadir": "mysql.data_dir", "socket": "mysql.socket", "port": "mysql.port",
	"bind_address": "mysql.host", "pid_file": "mysql.pid_file", "log_error": "mysql.log_file",
	"server_id": "mysql.server_id", "user": "mysql.user", "defaults_file": "mysql.defaults_file",
	"read_only": "", "super_read_only": "", "skip_replica_start": "", "skip_slave_start": "",
	"relay_log_recovery": "", "gtid_mode": "", "enforce_gtid_consistency": "", "log_replica_updates": "",
	"rpl_semi_sync_source_enabled": "", "rpl_semi_sync_replica_enabled": "",
	"rpl_semi_sync_source_timeout": "", "rpl_semi_sync_source_wait_for_replica_count": "",
	"rpl_semi_sync_source_wait_no_replica": "", "rpl_semi_sync_source_wait_point": "",
	"binlog_expire_logs_auto_purge": "binlog_expire_logs_seconds, 0 to keep all",
}

// faults collects what is wrong with a configuration.
type faults []string

func (f *faults) add(key, format string, args ...any) {
	*f = append(*f, key+": "+fmt.Sprintf(format, args...))
}

// Validate reports all that is wrong at once, each with what to do; exit code 2.
// Call [Config.SetDefaults] first.
func (c *Config) Validate() error {
	var f faults
	c.checkNode(&f)
	c.checkSecret(&f)
	if !c.Witness {
		c.MySQL.check(c, &f)
	}
	c.checkVIPs(&f)
	c.checkHooks(&f)
	c.checkArchive(&f)
	switch len(f) {
	case 0:
		return nil
	case 1:
		return api.Usage("configuration: %s", f[0])
	}
	return api.Usage("the configuration has %d faults:\n  - %s", len(f), strings.Join(f, "\n  - "))
}

func (c *Config) checkNode(f *faults) {
	if !validName.MatchString(c.Name) {
		f.add("name", "%q is not a name: use up to 63 letters, digits, dots, dashes and underscores", c.Name)
	}
	checkAddress(f, "listen", c.Listen)
	if c.Advertise != c.Listen {
		checkAddress(f, "advertise", c.Advertise)
	}
	if host, _, err := net.SplitHostPort(c.Advertise); err == nil && unspecified(host) {
		f.add("advertise", "%s is no address that others can connect to: set advertise (or listen) to this host's own", c.Advertise)
	}
	others := 0
	for _, a := range c.Join {
		checkAddress(f, "join", a)
		if a == c.Advertise || a == c.Listen {
			continue
		}
		others++
		if loopback(c.Listen) && !loopback(a) && c.Listen == c.Advertise {
			f.add("listen", "%s cannot be reached from %s, which join names: set listen to this host's own address", c.Listen, a)
		}
	}
	if len(c.Join) > 0 && others == 0 {
		f.add("join", "names this agent only: name another agent, or leave join away on the one that founds the cluster")
	}
	if c.Found && len(c.Join) > 0 {
		f.add("found", "goes without join: an agent that joins never founds")
	}
	for _, d := range [][2]string{{"data_dir", c.DataDir}, {"runtime_dir", c.RuntimeDir}} {
		if info, err := os.Stat(d[1]); err == nil && !info.IsDir() {
			f.add(d[0], "%s is not a directory: move it away or name another", d[1])
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		f.add("log.level", "%q is unknown: use debug, info, warn or error", c.Log.Level)
	}
	if !slices.Contains([]string{"text", "json"}, c.Log.Format) {
		f.add("log.format", "%q is unknown: use text or json", c.Log.Format)
	}
}

func (c *Config) checkSecret(f *faults) {
	secret := c.Secret
	if c.SecretFile != "" {
		if c.Secret != "" {
			f.add("secret", "and secret_file are both set: keep one")
			return
		}
		var err error
		if secret, err = readSecret(c.SecretFile); err != nil {
			f.add("secret_file", "%s", err)
			return
		}
	}
	switch {
	case secret == "" && !(loopback(c.Listen) && loopback(c.Advertise)):
		f.add("secret", "missing, and %s is not a loopback address: run `ha keygen > FILE`, copy FILE to every host, set secret_file", c.Listen)
	case secret != "" && len(secret) < minSecret:
		f.add("secret", "has %d characters, which can be guessed: use one made by `ha keygen`", len(secret))
	}
}

// ReadSecret moves what is in SecretFile to Secret.
func (c *Config) ReadSecret() error {
	if c.SecretFile == "" || c.Secret != "" {
		return nil
	}
	secret, err := readSecret(c.SecretFile)
	if err != nil {
		return api.Usage("secret_file: %w", err)
	}
	c.Secret, c.SecretFile = secret, ""
	return nil
}

func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w: make one with `ha keygen > %s`, or copy the cluster's", path, cause(err), path)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", fmt.Errorf("%s may be read by everybody on this host: chmod 600 %s", path, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w: run as its owner, or change who may read it", path, cause(err))
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s is empty: make a secret with `ha keygen > %s`, or copy the cluster's", path, path)
	}
	return secret, nil
}

func (m *MySQLConfig) check(c *Config, f *faults) {
	if m.Mysqld == "" {
		f.add("mysql.mysqld", "there is no mysqld in PATH: give its path with mysql.mysqld or --mysqld (a node without one is a witness: --witness)")
	} else if info, err := os.Stat(m.Mysqld); err != nil {
		f.add("mysql.mysqld", "%s: %s: give the path of a mysqld", m.Mysqld, cause(err))
	} else if info.IsDir() || info.Mode()&0o111 == 0 {
		f.add("mysql.mysqld", "%s is not a program: give the path of a mysqld", m.Mysqld)
	}
	if m.DataDir == c.DataDir || m.DataDir == c.RuntimeDir {
		f.add("mysql.data_dir", "%s is the agent's own directory: mysqld needs one for itself", m.DataDir)
	}
	for _, p := range [][2]string{{"mysql.socket", m.Socket}, {"mysql.pid_file", m.PidFile}, {"mysql.log_file", m.LogFile}} {
		if within(m.DataDir, p[1]) {
			f.add(p[0], "%s is in the data directory, which is replaced by a rebuild: put it beside", p[1])
		}
	}
	if len(m.Socket) > maxSocket {
		f.add("mysql.socket", "the path has %d bytes and the kernel takes %d: set a shorter one", len(m.Socket), maxSocket)
	}
	if m.Host == "" || unspecified(m.Host) {
		f.add("mysql.host", "%q is no address that replicas can connect to: set this host's own", m.Host)
	}
	if m.Port < 1 || m.Port > 65535 {
		f.add("mysql.port", "%d is not a port: use 1 to 65535", m.Port)
	}
	if _, port, err := net.SplitHostPort(c.Listen); err == nil && port == strconv.Itoa(m.Port) && hostOf(c.Listen) == m.Host {
		f.add("mysql.port", "%d is the agent's own port: give one of them another", m.Port)
	}
	if m.User != "" && os.Geteuid() != 0 {
		f.add("mysql.user", "only root can start mysqld as another user: leave it away")
	}
	if m.DefaultsFile != "" {
		if _, err := os.Stat(m.DefaultsFile); err != nil {
			f.add("mysql.defaults_file", "%s: %s: correct the path or leave it away", m.DefaultsFile, cause(err))
		}
	}
	if m.StartTimeout < 0 {
		f.add("mysql.start_timeout", "%s is negative: use something like \"10m\"", m.StartTimeout)
	}
	for _, o := range m.Options {
		m.checkOption(o, f)
	}
}

func (m *MySQLConfig) checkOption(option string, f *faults) {
	name, _, _ := strings.Cut(option, "=")
	bare, ok := strings.CutPrefix(name, "--")
	if !ok || bare == "" {
		f.add("mysql.options", "%q is not of the form --name=value", option)
		return
	}
	bare = strings.ReplaceAll(strings.TrimPrefix(bare, "loose-"), "-", "_")
	key, own := ownOptions[bare]
	switch {
	case own && key != "":
		f.add("mysql.options", "%s is set by the agent: use %s", name, key)
	case own:
		f.add("mysql.options", "%s is set by the agent: leave it away", name)
	}
}

func checkAddress(f *faults, key, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		f.add(key, "%q is not an address: use host:port, like 10.0.0.1:8801", addr)
		return
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		f.add(key, "%q is not a port: use 1 to 65535", port)
	}
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// loopback tells whether nobody outside this host can reach the address. A name
// other than localhost is taken to be reachable: who resolves it may change.
func loopback(addr string) bool {
	host := hostOf(addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsUnspecified()
}

// within tells whether path is dir or below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
