package raftfsm

import (
	"slices"
	"time"
)

// coolDown is how long a primary that lives is still left alone after the last
// promotion. A coordinator that did not see that does not hold back.
func (d *decider) coolDown() time.Duration {
	if len(d.s.History) < 2 || d.v.PhaseAge >= d.v.Leading {
		return 0
	}
	return d.s.Policy.CoolDown - d.v.PhaseAge
}

// mysqldGone begins the reason of a failover from a server that died.
const mysqldGone = "mysqld of "

// trigger says why the primary has to be replaced (section 7); empty: not. dead
// says that it does nothing for clients any more, nor will.
func (d *decider) trigger(p *NodeView) (why string, dead bool) {
	name := d.name(d.s.Primary)
	r := p.Report
	if r != nil && d.fresh(p) {
		switch {
		case r.Mysqld == MysqldDown && r.Token.Epoch == d.s.Epoch:
			return mysqldGone + name + " is gone", true
		case d.hangs(p):
			return mysqldGone + name + " hangs", false
		case r.Mysqld == MysqldRunning && r.SuperReadOnly && r.Token.Epoch == d.s.Epoch && d.v.PhaseAge > d.s.Policy.DeadAfter:
			return name + " is read-only: its agent fenced it", true
		}
		return d.diskTrigger(r), false
	}
	if p.Age <= d.s.Policy.DeadAfter {
		return "", false
	}
	silent := "nothing was heard of " + name
	switch hears := d.hears(); {
	case !d.closable():
		d.why("%s, and its epoch cannot be closed: start %s", silent, d.wouldClose(d.liveAckers()))
		return "", false
	case !hears: // none of its commits is acknowledged: for long it might as well be dead
		return silent + ", by its replicas neither", p.Age > 2*d.s.Policy.DeadAfter
	case p.Age > d.s.Policy.Lease+FenceSlack:
		return silent + " for longer than its lease", true // it is fenced, or has no agent
	}
	d.why("%s, but its replicas hear it: its agent is lost", silent)
	d.recheck(retryStep)
	return "", false
}

// DiskProblems are the codes of the problems for which a primary is replaced once
// they have lasted, if another member does not have them.
var DiskProblems = []string{"HA-DISK-FULL", "HA-READ-ONLY-FS", "HA-DISK-STALL", ProblemDiskWait}

// ProblemDiskWait says that the disk was full and is not any more, and mysqld waits on. Ending it
// is the cure, so that nobody else is needed for that.
const ProblemDiskWait = "HA-DISK-WAIT"

func diskProblem(r *Report) (Problem, bool) {
	if r == nil {
		return Problem{}, false
	}
	for _, p := range r.Problems {
		if slices.Contains(DiskProblems, p.Code) {
			return p, true
		}
	}
	return Problem{}, false
}

// diskTrigger: the primary's disk has been full, read-only or stalled for too long.
func (d *decider) diskTrigger(r *Report) string {
	problem, sick := diskProblem(r)
	curable := problem.Code == ProblemDiskWait
	if !sick || problem.For < d.s.Policy.HungAfter || !curable && !d.closable() {
		return ""
	}
	if curable || d.anotherIsWell() {
		return "the disk of " + d.name(d.s.Primary) + " is not well (" + problem.Code + ")"
	}
	d.why("the disk of %s is not well (%s), and nobody else could take over", d.name(d.s.Primary), problem.Code)
	return ""
}

// anotherIsWell says that there is a member that could take over and whose disk is well.
func (d *decider) anotherIsWell() bool {
	return slices.ContainsFunc(d.s.DataMembers(), func(m Member) bool {
		_, sick := diskProblem(d.v.Node(m.ID).Report)
		return m.ID != d.s.Primary && d.unfit(m.ID).Code == "" && !sick
	})
}
