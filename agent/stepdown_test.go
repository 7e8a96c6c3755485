package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"ha/agent/api"
	"ha/agent/node"
	"ha/agent/wire"
	"ha/raftfsm"
)

// A node that is not the primary has nothing to do but to leave the coordination
// to others; the socket by which it is asked is its owner's alone, and no other
// agent can ask in a primary's name.
func TestStepDownOfACoordinator(t *testing.T) {
	addrs := []string{testAddr(t), testAddr(t), testAddr(t)}
	var agents []*runningAgent
	for i, name := range []string{"w1", "w2", "w3"} {
		agents = append(agents, mustStart(t, witness(t, name, addrs[i], addrs[:min(i, 1)]...)))
	}
	oneCluster(t, agents, 3)
	leader := -1
	eventually(t, 10*time.Second, "a leader that hears the others", func() (bool, string) {
		for i, a := range agents {
			if s, v, _, leading := a.coord.status(); leading && otherVoter(&s, &v) != "" {
				leader = i
				return true, ""
			}
		}
		return false, ""
	})
	info, err := os.Stat(localSocket(agents[leader].cfg.RuntimeDir, string(agents[leader].id)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info, err)
	}
	r, err := StepDown(t.Context(), agents[leader].cfg, 5*time.Second)
	if err != nil || r.Done != api.StepDownNothing {
		t.Errorf("%+v, %v", r, err)
	}
	if agents[leader].raft.IsLeader() {
		t.Error("it still coordinates")
	}
	req := api.HandOver{From: agents[0].id, Timeout: time.Second}
	if _, err := call[struct{}](t.Context(), agents[1].client, addrs[2], api.PathHandOver, req); err == nil {
		t.Error("asked in another's name")
	}
	if _, err := call[api.StepDownReply](t.Context(), agents[1].client, addrs[2], api.PathStepDown, api.StepDown{}); err == nil {
		t.Error("an agent told another one to step down")
	}
}

// Where no agent answers, only a mysqld that the last order made a primary is
// ended, and nothing is made in a directory that has none.
func TestStepDownAlone(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Name: "n1", DataDir: dir, RuntimeDir: dir, Secret: wire.NewSecret()}
	cfg.SetDefaults()
	if _, err := StepDown(t.Context(), cfg, time.Second); api.ExitCode(err) != api.ExitFailed {
		t.Errorf("without a node id: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "node-id"), []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	step := func(what string) {
		t.Helper()
		if r, err := StepDown(t.Context(), cfg, time.Second); err != nil || r.Done != api.StepDownNothing {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
	step("no token file")
	if _, err := os.Stat(filepath.Join(dir, node.TokenFile)); err == nil {
		t.Error("made a token file")
	}
	tokens, err := node.OpenTokens(dir)
	if err != nil {
		t.Fatal(err)
	}
	step("a replica")
	if _, err := tokens.Accept(raftfsm.Order{To: "0123456789abcdef", Op: raftfsm.OpPromote, Token: raftfsm.Token{Epoch: 1, Index: 1, Step: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Close(); err != nil {
		t.Fatal(err)
	}
	step("a primary whose mysqld is dead already")
}
