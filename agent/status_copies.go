package agent

import (
	"fmt"

	"ha/agent/api"
	"ha/raftfsm"
)

func (b *statusBuilder) rebuildIssue(m raftfsm.Member, lease raftfsm.Rebuild, r *raftfsm.RebuildReport) {
	b.degraded = true
	text := m.Name + " is being copied anew"
	if lease.Donor != "" {
		text += " from " + b.name(lease.Donor)
	}
	text += colon(lease.Why)
	if r != nil && r.Err != "" {
		b.issue(api.Warning, IssueRebuild, m.Name, "wait: it is tried again; if it fails again, see the log of its agent", "%s; it failed: %s", text, r.Err)
		return
	}
	if r != nil && !r.Done {
		text += " (" + rebuildProgress(r) + ")"
	}
	b.issue(api.Info, IssueRebuild, m.Name, "wait", "%s", text)
}

func rebuildProgress(r *raftfsm.RebuildReport) string {
	if r.Total > 0 {
		return fmt.Sprintf("%s %d %% of %d MB", r.Phase, min(100, r.Bytes*100/r.Total), r.Total>>20)
	}
	return r.Phase
}

// copyIssues are about rebuilds that are wanted, were given up, or left too much.
func (b *statusBuilder) copyIssues(m raftfsm.Member, r *raftfsm.Report) {
	if w, ok := b.State.Wish(m.ID); ok {
		if _, leased := b.State.Rebuild(m.ID); !leased {
			b.issue(api.Info, IssueRebuild, m.Name, "`ha rebuild status` says what it waits for", "%s is to be rebuilt%s", m.Name, by(w.By))
		}
	}
	if r.OldWhy != "" {
		b.issue(api.Info, IssueOldData, m.Name, "look at the directory beside its data (.old), and remove it if nobody needs it",
			"old data of %s are kept: %s", m.Name, r.OldWhy)
	}
	if r.OldData > 0 && r.DiskFree > 0 && r.DiskFree < max(r.OldData, r.DataSize/4) {
		b.issue(api.Warning, IssueOldData, m.Name, "look at the directories beside its data (.old, .kept-N), and remove what nobody needs",
			"old data beside those of %s take %d MB, and %d MB are free", m.Name, r.OldData>>20, r.DiskFree>>20)
	}
}

func by(who string) string {
	if who == "" {
		return ""
	}
	return ", asked for by " + who
}
