package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"ha/agent/api"
	"ha/agent/backup"
	"ha/agent/engine"
	"ha/agent/node"
	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
	"ha/raftfsm"
	"ha/xtra"
)

// enginesEvery is how often it is looked which tools this host has: a person may have
// installed one just now.
const enginesEvery = 30 * time.Second

// installedBound is how long mysqld's binary may take to tell its version.
const installedBound = 5 * time.Second

// newCopier makes what gives copies of this node's mysqld by a tool.
func (a *Agent) newCopier(s raftfsm.State) *engine.Donor {
	c := a.mysqldConfig(s.AgentPassword)
	return &engine.Donor{Login: engine.Login{DataDir: c.DataDir, Socket: c.Socket, User: c.Account.User, Password: c.Account.Password},
		Node: a.cfg.Name, Dir: filepath.Clean(c.DataDir) + ".tool", Busy: a.noCopying, Log: a.log,
		Size: func() (uint64, error) { return uint64(max(xtra.Place{DataDir: c.DataDir}.DataSize(), 0)), nil },
		Version: func(context.Context) (string, error) {
			if v := a.serverVersion(); v != "" {
				return v, nil
			}
			return "", errors.New("mysqld does not run")
		}}
}

// serverVersion is that of mysqld; empty: not known yet.
func (a *Agent) serverVersion() string {
	if n := a.node.Load(); n != nil {
		return (*n).Report().Version
	}
	return ""
}

// keepEngines looks again and again which tools there are. A mysqld that does not
// start says no version, and is what copies are for most: its binary is asked then.
func (a *Agent) keepEngines(ctx context.Context) {
	for err := error(nil); err == nil; err = pause(ctx, enginesEvery) {
		limited, cancel := context.WithTimeout(ctx, installedBound)
		outside, err := mysqlctl.Outside(limited, a.cfg.mysqld(0, ""))
		cancel()
		if err != nil { // then mysqld does not start either
			a.log.Debug("options of mysqld not known", "err", err)
		}
		a.outsideData.Store(&outside)
		version := a.serverVersion()
		if version == "" {
			limited, cancel := context.WithTimeout(ctx, installedBound)
			version, _ = mysqlctl.InstalledVersion(limited, a.cfg.MySQL.Mysqld)
			cancel()
		}
		var all []raftfsm.EngineReport
		for _, e := range engine.All {
			all = append(all, raftfsm.EngineReport{Engine: raftfsm.Engine(e.Name), No: e.Check(ctx, version)})
		}
		a.engines.Store(&all)
	}
}

// hookEngines lets the node make copies with tools.
func (a *Agent) hookEngines(c *node.Config) {
	c.Engines = func() []raftfsm.EngineReport {
		if all := a.engines.Load(); all != nil {
			return *all
		}
		return nil
	}
	c.NoCopy = func() string {
		if option := a.outsideData.Load(); option != nil && *option != "" {
			return "files of its data are not in its data directory (" + *option + "), and would not be replaced with it"
		}
		return ""
	}
	c.Stream = a.streamCopy
}

// streamCopy has the donor's agent send its data.
func (a *Agent) streamCopy(ctx context.Context, o raftfsm.Order, dir string, progress func(mysqlctl.CloneProgress)) error {
	e, err := engine.Find(string(o.Engine))
	if err != nil {
		return err
	}
	s := a.fsm.State()
	donor, ok := s.Member(o.Source.Node)
	if !ok {
		return errors.New("the donor is no member")
	}
	c, err := e.Fetch(ctx, a.streams, donor.Address, dir, o.Throttle, func(p api.BackupProgress) {
		progress(mysqlctl.CloneProgress{Stage: p.Phase, Done: p.Done, Estimate: p.Total})
	})
	if err != nil {
		return err
	}
	set, err := gtid.Parse(c.GTID)
	if err != nil {
		return fmt.Errorf("position of the copy: %w", err)
	}
	return a.complete(ctx, dir, set, s.AgentPassword)
}

// complete opens a copy with a throw-away server, which proves that it can be opened,
// and has it take for executed what the tool says is in it and it does not know of:
// before the copy has a name, so that none without its transactions ever has one.
func (a *Agent) complete(ctx context.Context, dir string, set gtid.Set, password string) error {
	c := a.mysqldConfig(password)
	md := backup.Private(c, dir, c.LogFile, ".scratch", a.log)
	limited, cancel := context.WithTimeout(ctx, a.cfg.MySQL.StartTimeout)
	defer cancel()
	err := md.Start(limited)
	if err == nil {
		err = md.AddExecuted(limited, set)
	}
	if err = errors.Join(err, backup.End(md, err != nil)); err != nil {
		return fmt.Errorf("open the copy: %w", err)
	}
	return nil
}

// giveCopy answers PathCopy, for agents.
func (a *Agent) giveCopy(w http.ResponseWriter, r *http.Request) {
	if d := a.copier.Load(); d != nil {
		d.ServeHTTP(w, r)
		return
	}
	api.WriteError(w, errNoDonor)
}
