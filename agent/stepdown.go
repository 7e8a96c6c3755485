package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/node"
	"ha/agent/raftnode"
	"ha/mysqlctl"
	"ha/raftfsm"
)

const (
	// killBound is what killing mysqld may take: a big one's memory is freed first.
	killBound = 12 * time.Second
	// askBound is what asking for it may take.
	askBound = 3 * time.Second
	// handOverAgain is how soon a switchover is asked for again.
	handOverAgain = 500 * time.Millisecond
	// answerBound is what an agent may need for its answer beyond that.
	answerBound = 2 * time.Second
)

// localSocket is where the agent with that id serves this host.
func localSocket(runtimeDir, id string) string {
	return filepath.Join(runtimeDir, "ha-"+id+".sock")
}

// stepDown makes this host fit to be stopped: it has the primary's role handed
// over, or ends mysqld so that no waiting commit is acknowledged.
func (a *Agent) stepDown(ctx context.Context, req api.StepDown) (api.StepDownReply, error) {
	p := a.node.Load()
	if p == nil {
		return api.StepDownReply{}, errors.New("the agent is starting")
	}
	n := *p
	if a.cfg.Witness || !a.reigns(n) {
		a.leaveLeadership(ctx)
		return api.StepDownReply{Done: api.StepDownNothing, Primary: a.primaryName()}, nil
	}
	a.log.Info("stepping down", "timeout", req.Timeout)
	sctx, cancel := context.WithTimeout(ctx, req.Timeout)
	why := a.handOver(sctx, n)
	cancel()
	if why == nil {
		a.leaveLeadership(ctx)
		a.log.Info("stepped down", "primary", a.primaryName())
		return api.StepDownReply{Done: api.StepDownSwitched, Primary: a.primaryName()}, nil
	}
	// Whoever asked may be gone: this is done nevertheless.
	kctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killBound)
	defer cancel()
	if err := n.EndForGood(kctx); err != nil {
		return api.StepDownReply{}, fmt.Errorf("no switchover (%w), and mysqld is not dead: %w", why, err)
	}
	a.log.Warn("stepped down by killing mysqld, which stays down", "why", why)
	a.leaveLeadership(ctx)
	return api.StepDownReply{Done: api.StepDownKilled, Why: why.Error()}, nil
}

// reigns says that this node is the primary, by the group's record or by what it
// knows of its own server.
func (a *Agent) reigns(n nodeSide) bool {
	s := a.fsm.State()
	return s.Primary == a.id && n.Report().Mysqld != raftfsm.MysqldDown || n.Reigns()
}

func (a *Agent) primaryName() string {
	s := a.fsm.State()
	return s.Name(s.Primary)
}

// handOver waits until another node is the primary and this one's server is
// closed; the error says why that is not so.
func (a *Agent) handOver(ctx context.Context, n nodeSide) error {
	why := error(errNoCoordinator)
	for {
		s, changed := a.fsm.Watch()
		if s.Primary != a.id && s.Phase == raftfsm.PhaseSettled && !n.Reigns() {
			return nil
		}
		if len(s.DataMembers()) < 2 {
			return errors.New("no other member has a mysqld")
		}
		if s.Primary == a.id && s.Phase == raftfsm.PhaseSettled && s.Request == nil {
			if err := a.askHandOver(ctx); err == nil {
				why = errors.New("it was asked for and did not come about")
			} else if ctx.Err() == nil {
				why = err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no switchover in time: %w", why)
		case <-changed:
		case <-time.After(handOverAgain):
		}
	}
}

func (a *Agent) askHandOver(ctx context.Context) error {
	left := time.Minute
	if end, ok := ctx.Deadline(); ok {
		left = time.Until(end)
	}
	req := api.HandOver{From: a.id, Timeout: left}
	ctx, cancel := context.WithTimeout(ctx, askBound) // it may hang, and another one be elected
	defer cancel()
	id, addr := a.leader()
	var err error
	switch id {
	case "":
		err = errNoCoordinator
	case string(a.id):
		_, err = a.coord.takeHandOver(ctx, req)
	default:
		_, err = call[struct{}](ctx, a.client, addr, api.PathHandOver, req)
	}
	return err
}

// takeHandOver records a switchover to the best member.
func (c *coordinator) takeHandOver(ctx context.Context, req api.HandOver) (struct{}, error) {
	_, err := c.record(ctx, func(s *raftfsm.State, v *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error) {
		if s.Primary != req.From {
			return nil, raftfsm.Refusal{}, nil
		}
		r, no := raftfsm.PlanSwitchover(s, v, "")
		if no.Code != "" {
			return nil, no, nil
		}
		// The clients of a host that is being stopped lose their sessions anyhow.
		r.Timeout, r.EndBlockers = req.Timeout, true
		return &raftfsm.Command{Kind: raftfsm.CmdRequest, Request: &r}, raftfsm.Refusal{}, nil
	})
	return struct{}{}, err
}

// leaveLeadership hands coordination over, so that stopping this agent costs no
// election. It need not work.
func (a *Agent) leaveLeadership(ctx context.Context) {
	if !a.raft.IsLeader() {
		return
	}
	if s, v, _, leading := a.coord.status(); leading {
		if to := otherVoter(&s, &v); to != "" {
			a.coord.handover(ctx, s, to, "this host is being stopped")
		}
	}
}

// StepDown has the agent of this host make it fit to be stopped. Where no agent
// answers it sees to it itself that no waiting commit is acknowledged.
func StepDown(ctx context.Context, cfg Config, timeout time.Duration) (api.StepDownReply, error) {
	id, err := os.ReadFile(filepath.Join(cfg.DataDir, raftnode.IDFile))
	if err != nil {
		return api.StepDownReply{}, api.Failed("no agent has run here: %w", err).WithHint("give the agent's own configuration with --config")
	}
	actx, cancel := context.WithTimeout(ctx, timeout+killBound+answerBound)
	defer cancel()
	r, agentErr := askStepDown(actx, localSocket(cfg.RuntimeDir, strings.TrimSpace(string(id))), timeout)
	if agentErr == nil {
		return r, nil
	}
	r, err = stepDownAlone(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return r, api.Failed("the agent did not do it (%w), and neither could this: %w", agentErr, err)
	}
	if r.Done == api.StepDownKilled {
		r.Why = "the agent did not do it: " + agentErr.Error()
	}
	return r, nil
}

// askStepDown asks the agent at the unix socket.
func askStepDown(ctx context.Context, socket string, timeout time.Duration) (api.StepDownReply, error) {
	var r api.StepDownReply
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	body, err := json.Marshal(api.StepDown{Timeout: timeout})
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://local"+api.PathStepDown, bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return r, errors.New(string(bytes.TrimSpace(text)))
	}
	return r, json.NewDecoder(resp.Body).Decode(&r)
}

// stepDownAlone kills a mysqld that the last order made a primary. There is no
// password for it here, so it is not poisoned: SIGKILL answers nobody either.
func stepDownAlone(ctx context.Context, cfg Config) (api.StepDownReply, error) {
	if cfg.Witness {
		return api.StepDownReply{Done: api.StepDownNothing}, nil
	}
	if _, err := os.Stat(filepath.Join(cfg.DataDir, node.TokenFile)); errors.Is(err, fs.ErrNotExist) {
		return api.StepDownReply{Done: api.StepDownNothing}, nil
	}
	tokens, err := node.OpenTokens(cfg.DataDir)
	if err != nil {
		return api.StepDownReply{}, err
	}
	role := tokens.Now().Role
	if err := tokens.Close(); err != nil || role != node.RolePrimary {
		return api.StepDownReply{Done: api.StepDownNothing}, err
	}
	m := cfg.MySQL
	md := mysqlctl.New(mysqlctl.Config{Mysqld: m.Mysqld, DataDir: m.DataDir, Socket: m.Socket, PidFile: m.PidFile, LogFile: m.LogFile,
		Host: m.Host, Port: m.Port, Account: mysqlctl.Account{User: agentAccount}}, nil)
	ctx, cancel := context.WithTimeout(ctx, killBound)
	defer cancel()
	found, _ := md.Adopt(ctx) // it cannot log in, and need not
	if !found {
		return api.StepDownReply{Done: api.StepDownNothing}, nil
	}
	return api.StepDownReply{Done: api.StepDownKilled}, md.Kill(ctx)
}
