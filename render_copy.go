package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	pretty "github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/table"

	"ha/agent/api"
)

// copyView shows how far a copy is: a bar on a terminal, lines elsewhere.
type copyView interface {
	show(st api.RebuildStatus)
	say(what string)
	end()
}

func newCopyView(w io.Writer) copyView {
	if isTerminal(w) {
		return newCopyBar(w)
	}
	return &copyLines{talk: newProgress(w)}
}

// copyLines says each phase, and a copy's progress now and then.
type copyLines struct {
	talk  *progress
	phase string
	at    time.Time
}

const copyLineEvery = 5 * time.Second

func (l *copyLines) say(what string) { l.talk.say(what) }
func (l *copyLines) end()            { l.talk.done() }

func (l *copyLines) show(st api.RebuildStatus) {
	if st.Phase == l.phase && (st.Phase != api.PhaseCopying || time.Since(l.at) < copyLineEvery) {
		return
	}
	l.phase, l.at = st.Phase, time.Now()
	l.talk.say(copyText(st))
}

// copyBar is a bar with bytes, rate and the time that is left.
type copyBar struct {
	w       pretty.Writer
	tracker *pretty.Tracker
	done    chan struct{}
}

func newCopyBar(w io.Writer) *copyBar {
	b := &copyBar{w: pretty.NewWriter(), done: make(chan struct{})}
	b.w.SetOutputWriter(w)
	b.w.SetUpdateFrequency(rebuildEvery)
	b.w.SetTrackerLength(30)
	b.w.SetMessageLength(44)
	b.w.SetAutoStop(false)
	style := pretty.StyleBlocks
	style.Visibility.ETA, style.Visibility.Speed, style.Visibility.Time = true, true, true
	style.Options.Separator = " "
	style.Options.ETAPrecision = time.Second
	b.w.SetStyle(style)
	b.tracker = &pretty.Tracker{Message: "rebuild", Units: pretty.UnitsBytes}
	b.w.AppendTracker(b.tracker)
	go func() {
		defer close(b.done)
		b.w.Render()
	}()
	return b
}

func (b *copyBar) say(what string) { b.tracker.UpdateMessage(what) }

func (b *copyBar) show(st api.RebuildStatus) {
	if st.Total > 0 {
		b.tracker.UpdateTotal(st.Total)
		b.tracker.SetValue(min(st.Bytes, st.Total-1)) // whole, it would count as done
	}
	b.tracker.UpdateMessage(fmt.Sprintf("%s: %s", st.Name, copyPhase(st)))
}

func (b *copyBar) end() {
	b.tracker.MarkAsDone()
	b.w.Stop()
	<-b.done
}

// copyPhase says in words what is being done.
func copyPhase(st api.RebuildStatus) string {
	from := ""
	if st.Donor != "" {
		from = " from " + st.Donor
	}
	switch st.Phase {
	case api.PhaseWaiting:
		return "waiting: " + st.Doing
	case api.PhasePreparing:
		return "preparing the copy" + from
	case api.PhaseCopying:
		return "copying" + from
	case api.PhaseVerifying, api.PhaseReady:
		return "verifying the copy"
	case api.PhaseSwapping:
		return "putting the copy in place"
	case api.PhaseStarting:
		return "starting mysqld on the copy"
	case api.PhaseFollowing:
		return "the copy is in place; " + st.Doing
	}
	return st.Phase
}

func copyText(st api.RebuildStatus) string {
	text := st.Name + ": " + copyPhase(st)
	if st.Phase == api.PhaseCopying && st.Total > 0 {
		text += fmt.Sprintf(": %s of %s (%d %%)", bytesText(st.Bytes), bytesText(st.Total), min(100, st.Bytes*100/st.Total))
		if st.Rate > 0 {
			text += fmt.Sprintf(", %s/s", bytesText(st.Rate))
		}
		if st.ETA >= 0 {
			text += ", " + (time.Duration(st.ETA) * time.Millisecond).Round(time.Second).String() + " to go"
		}
	}
	if st.Last != "" {
		text += " (before: " + st.Last + ")"
	}
	return text
}

func bytesText(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%d kB", n>>10)
}

func copyEnded(st api.RebuildStatus) string {
	switch {
	case st.OK:
		return fmt.Sprintf("%s was rebuilt from %s (%.1f s)", st.Name, st.Donor, float64(st.TookMS)/1000)
	case st.Canceled:
		return strings.TrimSpace("canceled " + st.Err)
	}
	return "failed: " + st.Err
}

func renderRebuilds(all api.Rebuilds) string {
	if len(all.Rebuilds) == 0 {
		return "no rebuild is under way, and none was\n"
	}
	var rows []table.Row
	for _, st := range all.Rebuilds {
		text := strings.TrimPrefix(copyText(st), st.Name+": ")
		if st.Done {
			text = copyEnded(st)
		}
		rows = append(rows, table.Row{st.Name, dash(st.Donor), st.Phase, dash(st.By), text})
	}
	return plainTable(table.Row{"node", "from", "phase", "asked by", ""}, rows) + "\n"
}
