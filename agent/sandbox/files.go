package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"

	"ha/agent/api"
	"ha/agent/wire"
)

// nodeConfig is a configuration that a reader can learn from.
var nodeConfig = template.Must(template.New("ha.toml").Parse(`# The configuration of the agent {{.Name}}, written by "ha sandbox up".
# A real one looks the same: one such file on each host, for "ha agent --config FILE".
# docs/CONFIG.md describes every key.

# What people call this node. No two nodes of a cluster have the same name.
name = "{{.Name}}"

# Where this agent listens, TCP and UDP: gossip, Raft and the API share one port.
# Other agents must be able to reach it under this address.
listen = "{{.Agent}}"
{{if .Join}}
# Agents to ask for the way into the cluster: the same list on every node but
# the one that founds it. They need not all be up.
join = [{{range $i, $a := .Join}}{{if $i}}, {{end}}"{{$a}}"{{end}}]
{{else}}
# No join: this agent founds the cluster. That happens once; afterwards it finds
# the others by what it has in data_dir.
{{end}}
# The cluster's secret ("ha keygen" makes one), the same on every host. Who has
# it is trusted, so only the agent may read the file.
secret_file = "{{.Secret}}"

# The node's id and its part of the Raft log: lose it, and the node comes back as
# a new one. Never copy it to another host.
data_dir = "{{.Dir}}/agent"

# The lease and the local socket; /run/ha on a real host.
runtime_dir = "{{.Dir}}"
{{if .Witness}}
# A witness votes and has no mysqld: it lets two servers with data decide which
# of them goes on when they cannot see each other.
witness = true
{{else}}
[mysql]
# The agent starts this mysqld, watches it and starts it again. No init system
# may do so as well.
mysqld = "{{.Mysqld}}"
# Its data: initialised if empty.
data_dir = "{{.Dir}}/data"
socket = "{{.Dir}}/mysqld.sock"
pid_file = "{{.Dir}}/mysqld.pid"
log_file = "{{.Dir}}/mysqld.log"
# Where clients and replicas connect.
host = "{{.Host}}"
port = {{.Port}}
{{- if .User}}
# Who runs mysqld when the agent is root; "mysql" on a real host.
user = "{{.User}}"
{{- end}}
# More options for mysqld. These keep it small, as several share this machine; on
# a real host they would go into a my.cnf: defaults_file = "/etc/mysql/my.cnf".
# Whatever ha's promises rest on, the agent sets itself.
options = [
{{range .Options}}  "{{.}}",
{{end}}]
{{end}}
[log]
# debug, info, warn, error
level = "info"
`))

// smallOptions keep a mysqld of the sandbox small and quick to start.
var smallOptions = []string{
	"--innodb-buffer-pool-size=64M",
	"--innodb-redo-log-capacity=48M",
	"--max-connections=100",
	"--table-open-cache=400",
	"--loose-mysqlx=OFF",
	"--event-scheduler=OFF",
}

// writeFiles makes what is not there yet. Configuration files that exist are
// left alone: a person may have changed them to see what happens.
func (s *Sandbox) writeFiles() error {
	secret := filepath.Join(s.Dir, "secret")
	if err := writeOnce(secret, []byte(wire.NewSecret()+"\n")); err != nil {
		return err
	}
	var seeds []string
	for _, n := range s.Nodes {
		seeds = append(seeds, n.Agent)
	}
	for i, n := range s.Nodes {
		if err := os.MkdirAll(s.NodeDir(n.Name), 0o700); err != nil {
			return err
		}
		join := seeds
		if i == 0 {
			join = nil
		}
		host, _, _ := net.SplitHostPort(n.Agent)
		user := ""
		if os.Geteuid() == 0 {
			user = "root"
		}
		var text bytes.Buffer
		err := nodeConfig.Execute(&text, map[string]any{
			"Name": n.Name, "Agent": n.Agent, "Join": join, "Secret": secret, "Dir": s.NodeDir(n.Name),
			"Witness": n.Witness, "Mysqld": s.Mysqld, "Host": host, "Port": s.MySQLPort, "User": user, "Options": smallOptions,
		})
		if err != nil {
			return err
		}
		if err := writeOnce(s.configFile(n.Name), text.Bytes()); err != nil {
			return err
		}
	}
	client := fmt.Sprintf("# For clients of the sandbox in %s:\n# ha status --config %s\nsecret_file = %q\njoin = [\"%s\"]\n",
		s.Dir, s.ClientConfig(), secret, strings.Join(seeds, `", "`))
	if err := replaceFile(s.ClientConfig(), []byte(client), 0o600); err != nil {
		return err
	}
	return s.save()
}

func writeOnce(path string, text []byte) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return replaceFile(path, text, 0o600)
}

// prepareData fills the empty data directories from one that is initialised
// once: that takes a server 3 s, a copy takes a moment.
func (s *Sandbox) prepareData(ctx context.Context, progress func(string)) error {
	var empty []string
	for _, n := range s.Nodes {
		dir := filepath.Join(s.NodeDir(n.Name), "data")
		if _, err := os.Stat(dir); !n.Witness && errors.Is(err, fs.ErrNotExist) {
			empty = append(empty, dir)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	tmpl := filepath.Join(s.Dir, "template")
	if _, err := os.Stat(tmpl); err != nil {
		progress("initialising a data directory")
		if err := InitData(ctx, s.Mysqld, tmpl); err != nil {
			return err
		}
	}
	progress("copying data directories")
	for _, dir := range empty {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := CopyData(tmpl, dir); err != nil {
			return api.Failed("copy %s: %w", tmpl, err)
		}
	}
	return nil
}

// InitData makes an initialised data directory; root has no password in it.
func InitData(ctx context.Context, mysqld, dir string) error {
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	args := append([]string{"--no-defaults", "--datadir=" + tmp}, smallOptions...)
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	cmd := exec.CommandContext(ctx, mysqld, append(args, "--initialize-insecure")...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return api.Failed("%s --initialize-insecure: %w\n%s", mysqld, err, lastLines(out, 5)).
			WithHint("Is it a mysqld of version 8.0 or later that runs on this machine? Try: %s --version", mysqld)
	}
	return os.Rename(tmp, dir)
}

// CopyData copies a data directory but for auto.cnf, which holds the
// server_uuid: every server needs one of its own. It appears whole or not at all.
func CopyData(from, to string) error {
	tmp := to + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(tmp, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(target, 0o750)
		case rel == "auto.cnf" || !d.Type().IsRegular():
			return nil
		}
		return copyFile(path, target)
	})
	if err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm())
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
