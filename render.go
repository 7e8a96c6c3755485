package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"ha/agent/api"
)

// renderStatus draws a status as a person reads it: how is it, who is who, what
// is wrong and what to do.
func renderStatus(st api.Status, wide, colours bool) string {
	p := painter(colours)
	var b strings.Builder
	b.WriteString(headline(st, p))
	b.WriteString(nodeTable(st, wide, p))
	b.WriteString("\n")
	b.WriteString(vipTable(st))
	if wide && st.Cluster != "" {
		fmt.Fprintf(&b, "\ncluster %s, answered by %s\n", st.Cluster, st.Source)
	}
	for _, i := range st.Issues {
		fmt.Fprintf(&b, "\n%s %s\n", p.severity(i.Severity, i.Code), i.Text)
		if i.Next != "" {
			fmt.Fprintf(&b, "    next: %s\n", i.Next)
		}
	}
	return b.String()
}

func headline(st api.Status, p painter) string {
	primary, coordinator := st.Primary, st.Coordinator
	if primary == "" {
		primary = "none"
	}
	if coordinator == "" {
		coordinator = "none"
	}
	acks := fmt.Sprintf("acks %d of %d", st.Acks, st.AcksWanted)
	if len(st.AckSet) > 0 {
		acks += ", set " + strings.Join(st.AckSet, " ")
	}
	paused := ""
	if st.Paused {
		paused = "  " + p.paint("paused", text.Bold, text.FgYellow)
	}
	line := fmt.Sprintf("%s  primary %s  epoch %d  %s  coordinator %s%s\n",
		p.health(st.Health), primary, st.Epoch, acks, coordinator, paused)
	if st.Doing != "" {
		line += "doing: " + st.Doing + "\n"
	}
	return line
}

func nodeTable(st api.Status, wide bool, p painter) string {
	var rows []table.Row
	header := table.Row{"node", "role", "mysql", "mysqld", "mode", "ack", "lag", "agent", "raft"}
	if wide {
		header = append(header, "address", "version", "gtid executed")
	}
	for _, n := range st.Nodes {
		row := table.Row{
			n.Name, p.role(n.Role), dash(n.MySQL), p.mysqld(string(n.Mysqld)), mode(n), ack(n), lag(n),
			p.agent(n), dash(n.Raft),
		}
		if wide {
			row = append(row, n.Address, dash(n.Version), dash(n.GTIDExecuted))
		}
		rows = append(rows, row)
		if n.Leaving {
			rows = append(rows, table.Row{"", "", "is to leave"})
		}
		if n.Archived != nil {
			rows = append(rows, table.Row{"", "", "binary logs archived up to " + n.Archived.Local().Format(time.DateTime)})
		}
		if n.Doing != "" {
			rows = append(rows, table.Row{"", "", n.Doing})
		}
	}
	return plainTable(header, rows)
}

// vipTable is nothing where there are no virtual IPs.
func vipTable(st api.Status) string {
	var rows []table.Row
	for _, v := range st.VIPs {
		rows = append(rows, table.Row{v.Address, v.Role, dash(v.Holder), dash(v.Interface)})
	}
	if len(rows) == 0 {
		return ""
	}
	return "\n" + plainTable(table.Row{"vip", "for", "on", "interface"}, rows) + "\n"
}

// plainTable is a table without lines, its columns aligned.
func plainTable(header table.Row, rows []table.Row) string {
	t := table.NewWriter()
	style := table.StyleLight
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	t.AppendHeader(header)
	t.AppendRows(rows)
	lines := strings.Split(t.Render(), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func renderPolicy(p api.Policy) string {
	var rows []table.Row
	for _, s := range p.Settings {
		note := ""
		if s.Value != s.Default {
			note = "default " + s.Default
		}
		rows = append(rows, table.Row{s.Name, s.Value, note})
	}
	return plainTable(table.Row{"setting", "value", ""}, rows) + "\n"
}

func renderEvents(e api.Events, now time.Time) string {
	if len(e.Events) == 0 {
		return "no events\n"
	}
	var rows []table.Row
	for _, ev := range e.Events {
		at, age := "-", "-"
		if ev.At != 0 {
			t := time.UnixMilli(ev.At)
			at, age = t.Local().Format("2006-01-02 15:04:05.000"), ago(now.Sub(t))
		}
		rows = append(rows, table.Row{at, age, ev.Epoch, ev.Text})
	}
	return plainTable(table.Row{"time", "ago", "epoch", "what"}, rows) + "\n"
}

// ago is a time that has passed, as people say it.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

func mode(n api.NodeStatus) string {
	switch {
	case n.Mysqld != "running":
		return "-"
	case n.ReadOnly:
		return "read only"
	}
	return "writable"
}

func ack(n api.NodeStatus) string {
	switch {
	case n.Acker && n.Attached:
		return "yes"
	case n.Acker:
		return "absent"
	}
	return "-"
}

func lag(n api.NodeStatus) string {
	if n.LagSeconds == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f s", *n.LagSeconds)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// painter colours words, or leaves them as they are.
type painter bool

func (p painter) paint(s string, c ...text.Color) string {
	if !p || s == "" {
		return s
	}
	codes := make([]string, len(c))
	for i := range c {
		codes[i] = fmt.Sprint(int(c[i]))
	}
	return "\x1b[" + strings.Join(codes, ";") + "m" + s + "\x1b[0m"
}

func (p painter) health(h api.Health) string {
	switch h {
	case api.HealthOK:
		return p.paint(string(h), text.Bold, text.FgGreen)
	case api.HealthDegraded:
		return p.paint(string(h), text.Bold, text.FgYellow)
	}
	return p.paint(string(h), text.Bold, text.FgRed)
}

func (p painter) severity(s api.Severity, code string) string {
	switch s {
	case api.Critical:
		return p.paint(code, text.Bold, text.FgRed)
	case api.Warning:
		return p.paint(code, text.FgYellow)
	}
	return p.paint(code, text.FgCyan)
}

func (p painter) role(role string) string {
	if role == "primary" {
		return p.paint(role, text.Bold)
	}
	return role
}

func (p painter) mysqld(state string) string {
	switch state {
	case "down", "hung":
		return p.paint(state, text.FgRed)
	case "none":
		return "-"
	}
	return state
}

func (p painter) agent(n api.NodeStatus) string {
	if n.Agent == "up" {
		return n.Agent
	}
	s := n.Agent
	if n.SeenMS >= 0 {
		s += fmt.Sprintf(" %.0f s", float64(n.SeenMS)/1000)
	}
	return p.paint(s, text.FgRed)
}
