package lab

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Result is what one fault did: a row of docs/FAULTS.md.
type Result struct {
	Group, Fault string
	// Direct and VIP are the longest times without an acknowledged row, of writers
	// that know all servers and of those that know the virtual IP.
	Direct, VIP time.Duration
	Verdict     Verdict
	Note        string // what else was seen
	Failed      string // what did not hold
}

// Groups are the headings, in order.
var Groups = []string{"Process", "Network", "Disk and machine", "Replication", "Copies"}

const (
	docHead = `# Faults

What ` + "`make lab-all`" + ` saw: it wrote this page, and a change by hand is lost. Each fault strikes a cluster of three hosts with real
servers in network namespaces (lab/), while a writer on each host, one from elsewhere to each host and two through the virtual IP write,
100 rows a second each at most. After each the same is checked: (i) every acknowledged row is there once, everywhere; (ii) two
servers never acknowledged, (iii) nor did a deposed one; (iv) no errant GTID; (v) no read through the virtual IP was older than lease + 1.5 s;
(vi) writable again with all ackers; (vii) semi-sync is set right; (viii) nothing is left over.

*direct* and *through VIP*: the longest time without an acknowledged row, of writers that know all servers and of those that know the
virtual IP. *stalest read*: how old a row was that a read through the virtual IP did not see. *well after*: from the end of
the fault to a healthy cluster with all ackers. One run each on a machine with two cores.
`
	tableHead = "| fault | direct | through VIP | stalest read | well after | seen |\n|---|---|---|---|---|---|\n"
)

func (r Result) row() string {
	ms := func(d time.Duration) string {
		if d < 10*time.Second {
			return fmt.Sprintf("%d ms", d.Milliseconds())
		}
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	note := r.Note
	if r.Failed != "" {
		note = "**FAILED**: " + r.Failed
	}
	note = strings.NewReplacer("\n", " ", "|", "/").Replace(note)
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", r.Fault, ms(r.Direct), ms(r.VIP), ms(r.Verdict.Stalest), ms(r.Verdict.Healthy), note)
}

// WriteResults writes the page. Rows of faults that are not among results stay;
// order has all faults.
func WriteResults(path string, results []Result, order []string) error {
	rows := map[string]map[string]string{}
	for _, g := range Groups {
		rows[g] = map[string]string{}
	}
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	group := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "## "); ok {
			group = h
		} else if cells := strings.Split(line, " | "); len(cells) == 6 && rows[group] != nil {
			rows[group][strings.TrimPrefix(cells[0], "| ")] = line
		}
	}
	for _, r := range results {
		rows[r.Group][r.Fault] = r.row()
	}
	var b strings.Builder
	b.WriteString(docHead)
	for _, g := range Groups {
		b.WriteString("\n## " + g + "\n" + tableHead)
		for _, name := range order {
			if line, ok := rows[g][name]; ok && slices.Contains(order, name) {
				b.WriteString(line + "\n")
			}
		}
	}
	return os.WriteFile(path, []byte(b.String()), 0o644)
}
