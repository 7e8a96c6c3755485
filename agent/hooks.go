package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ha/agent/hook"
	"ha/agent/node"
	"ha/vip"
)

// hookState is the file in the data dir that tells which hooks were run.
const hookState = "hooks.json"

// openHooks makes the runner, if there is a hook.
func (a *Agent) openHooks() {
	h := a.cfg.Hooks
	if len(h.OnPromote)+len(h.OnDemote) == 0 {
		return
	}
	a.hooks = hook.New(hook.Config{
		Commands: map[hook.Kind][]string{hook.Promote: h.OnPromote, hook.Demote: h.OnDemote},
		Timeout:  h.Timeout, State: filepath.Join(a.cfg.DataDir, hookState),
		Env: a.hookEnv, Ended: a.hookEnded, Log: a.log,
	})
}

func (a *Agent) runHooks(ctx context.Context) error {
	if a.hooks == nil {
		return nil
	}
	return a.hooks.Run(ctx)
}

// hookRole has the runner told beside what is told already.
func (a *Agent) hookRole(c *node.Config) {
	if a.hooks == nil {
		return
	}
	opened, closed := c.Opened, c.Closed
	c.Opened = func(epoch uint64, until time.Duration) {
		if opened != nil {
			opened(epoch, until)
		}
		a.hooks.Opened(epoch)
	}
	c.Closed = func(succession bool) {
		if closed != nil {
			closed(succession)
		}
		a.hooks.Closed()
	}
}

// hookEnv is documented in docs/CONFIG.md.
func (a *Agent) hookEnv(e hook.Event) []string {
	role := "replica"
	if e.Kind == hook.Promote {
		role = "primary"
	}
	var vips []string
	for _, v := range a.cfg.addresses() {
		if v.Role == vip.Primary {
			vips = append(vips, v.Addr.String())
		}
	}
	m := a.cfg.MySQL
	return []string{
		"HA_EVENT=" + string(e.Kind), "HA_ROLE=" + role, "HA_EPOCH=" + strconv.FormatUint(e.Epoch, 10),
		"HA_NODE=" + a.cfg.Name, "HA_NODE_ID=" + string(a.id), "HA_CLUSTER=" + a.cluster(),
		"HA_VIP=" + strings.Join(vips, " "),
		"HA_MYSQL_HOST=" + m.Host, "HA_MYSQL_PORT=" + strconv.Itoa(m.Port), "HA_MYSQL_SOCKET=" + m.Socket,
	}
}

// inEvent is how many bytes of a hook's output stand in the events; the log has more.
const inEvent = 300

func (a *Agent) hookEnded(r hook.Result) {
	took := r.Took.Round(time.Millisecond)
	text := fmt.Sprintf("on_%s for epoch %d ended after %s", r.Kind, r.Epoch, took)
	if r.Err != nil {
		text = fmt.Sprintf("on_%s for epoch %d failed after %s: %s", r.Kind, r.Epoch, took, r.Err)
		a.log.Warn("hook failed", "hook", r.Kind, "epoch", r.Epoch, "took", took, "err", r.Err, "output", r.Output)
	} else {
		a.log.Info("hook ended", "hook", r.Kind, "epoch", r.Epoch, "took", took, "output", r.Output)
	}
	if out := strings.Join(strings.Fields(r.Output), " "); out != "" {
		text += ": " + strings.ToValidUTF8(out[max(0, len(out)-inEvent):], "")
	}
	a.note(text)
}
