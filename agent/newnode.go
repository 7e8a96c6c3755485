package agent

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/node"
	"ha/mysqlctl"
	"ha/raftfsm"
)

// agentAccount is the agents' own MySQL account, local on each server.
const agentAccount = "ha_agent"

// newNode makes the node side. For a witness it has no mysqld.
func (a *Agent) newNode(s raftfsm.State) (nodeSide, error) {
	c := node.Config{ID: a.id, Version: a.version, DataDir: a.cfg.DataDir, RuntimeDir: a.cfg.RuntimeDir,
		StartTimeout: a.cfg.MySQL.StartTimeout, Cluster: a.cluster, LastIndex: a.raft.LastIndex, Problems: a.problems, Send: a.sendReport, Step: a.Step, Clock: a.outside.clock, Log: a.log}
	if !a.cfg.Witness {
		c.Mysqld, c.MysqlDir = a.outside.mysqld(a.mysqldConfig(s.AgentPassword)), a.cfg.MySQL.DataDir
		a.openArchive(&c)
		a.openPurger(&c)
		a.hookEngines(&c)
		c.Giving = a.givesBackup
		c.Scratch = func(dir string) node.Mysqld { return a.outside.mysqld(a.scratchConfig(dir, s.AgentPassword)) }
	}
	a.hookVIP(&c)
	a.hookRole(&c)
	n, err := node.New(c)
	if err != nil {
		return nil, api.Failed("node: %w", err)
	}
	return n, nil
}

func (a *Agent) mysqldConfig(password string) mysqlctl.Config {
	return a.cfg.mysqld(a.serverID(), password)
}

// mysqld is how this node's server is run.
func (c *Config) mysqld(serverID uint32, password string) mysqlctl.Config {
	m := c.MySQL
	if len(c.VIPs) > 0 { // they are not on this host when it starts
		m.Host = "*"
	}
	return mysqlctl.Config{Mysqld: m.Mysqld, DataDir: m.DataDir, Socket: m.Socket, PidFile: m.PidFile, LogFile: m.LogFile,
		Host: m.Host, Port: m.Port, ServerID: serverID, User: m.User, DefaultsFile: m.DefaultsFile, Options: m.Options,
		Account: mysqlctl.Account{User: agentAccount, Password: password}}
}

// scratchConfig is of a throw-away server that nobody but its agent can reach.
func (a *Agent) scratchConfig(dir, password string) mysqlctl.Config {
	c := a.mysqldConfig(password)
	c.DataDir, c.Host, c.Port = dir, "", 0
	c.Socket, c.PidFile = c.Socket+".scratch", c.PidFile+".scratch"
	c.Options = slices.Concat(c.Options, mysqlctl.InsideOptions(dir), []string{"--skip-networking"})
	return c
}

// serverID is the configured server_id, or one made from the node id, which is
// random: two that are equal in one cluster are as good as impossible.
func (a *Agent) serverID() uint32 {
	if a.cfg.MySQL.ServerID != 0 {
		return a.cfg.MySQL.ServerID
	}
	return crc32.ChecksumIEEE([]byte(a.id)) | 1
}

// keepMark names the cluster in mysqld's data dir, also after the directory was
// replaced by a copy. It is written once there is a server in it.
func (a *Agent) keepMark() {
	dir := a.cfg.MySQL.DataDir
	path := filepath.Join(dir, markFile)
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == a.cluster() {
		return
	}
	if n := a.node.Load(); n == nil || (*n).Report().Mysqld != raftfsm.MysqldRunning {
		return
	}
	if err := os.WriteFile(path, []byte(a.cluster()+"\n"), 0o644); err != nil { //nolint:gosec // no secret; people may read it
		a.log.Warn("cluster not named in the data dir", "path", path, "err", err)
		return
	}
	_ = os.Remove(filepath.Join(dir, backup.RestoredFile)) // they are this cluster's now, and found no other
}

// markEvery is how often the file is looked at.
const markEvery = 2 * time.Second
