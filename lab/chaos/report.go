package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ha/bench/stage"
)

// outage is how long clients of the virtual IP waited for what a strike did.
type outage struct {
	strike strike
	gap    time.Duration
}

// report tells how it went with one cluster; err is what ended it.
func (c *chaos) report(seed uint64, err error) string {
	verdict := "none lost; " + c.history.String()
	if err != nil {
		verdict = "**FAILED**: " + err.Error()
	}
	return fmt.Sprintf("\n## %s\n\nSeed %d: %d blows, %d rows acknowledged, %s\n\n%s", c.layout.name, seed, c.strikes, c.rows, verdict, tables(c.outages))
}

// tables are the outages by blow, and by pair of blows that overlapped. What a pair
// took counts for both.
func tables(all []outage) string {
	alone, together, pairs := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	names := map[string]bool{}
	for _, o := range all {
		names[o.strike.first.name] = true
		if o.strike.second == nil {
			alone[o.strike.name()] = append(alone[o.strike.name()], o.gap)
			continue
		}
		pairs[o.strike.name()] = append(pairs[o.strike.name()], o.gap)
		both := []string{o.strike.first.name, o.strike.second.name}
		for _, name := range slices.Compact(both) {
			names[name] = true
			together[name] = append(together[name], o.gap)
		}
	}
	var b strings.Builder
	b.WriteString("How long clients of the virtual IP waited:\n\n| blow | alone | p50 | max | with another | p50 | max |\n|---|---|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, cells(alone[name]), cells(together[name]))
	}
	if len(pairs) > 0 {
		b.WriteString("\n| blows that overlapped | times | p50 | max |\n|---|---|---|---|\n")
	}
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		fmt.Fprintf(&b, "| %s | %s |\n", name, cells(pairs[name]))
	}
	return b.String()
}

// cells are how often, the median and the longest.
func cells(gaps []time.Duration) string {
	if len(gaps) == 0 {
		return "0 | – | –"
	}
	return fmt.Sprintf("%d | %s | %s", len(gaps), stage.Percentile(gaps, 50).Round(time.Millisecond), slices.Max(gaps).Round(time.Millisecond))
}
