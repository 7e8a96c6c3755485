package backup

import (
	"fmt"
	"slices"
	"strings"

	"ha/agent/api"
	"ha/raftfsm"
)

// Best lets Choose choose.
const Best = "best"

// Choose finds the node that gives a backup: the one named, by name or id, or the best.
// The best is a replica that replicates, has not diverged and is not being rebuilt, with
// the least lag; the primary only where there is none. why says it in words.
func Choose(st api.Status, from string) (donor api.NodeStatus, why string, err error) {
	if from != Best && from != "" {
		var names []string
		for _, n := range st.Nodes {
			if n.Name == from || n.ID == from {
				if no := unfit(st, n); no != "" && no == n.Doing {
					return n, "", api.Busy("%s cannot give a backup now: it %s", n.Name, no).WithHint("wait for the end of that, or take another with --from")
				} else if no != "" {
					return n, "", api.Refused("HA-NO-DONOR", "%s cannot give a backup: %s", n.Name, no).WithHint("take another with --from, or --from best")
				}
				return n, "it was asked for", nil
			}
			names = append(names, n.Name)
		}
		return donor, "", api.Usage("there is no node %q", from).WithHint("Nodes: %s; or best.", strings.Join(names, ", "))
	}
	var reasons []string
	var primary *api.NodeStatus
	found := false
	for _, n := range st.Nodes {
		no := unfit(st, n)
		switch {
		case no != "":
			reasons = append(reasons, n.Name+": "+no)
		case n.Role == "primary":
			primary = &n
		case n.LagSeconds == nil:
			reasons = append(reasons, n.Name+": it does not replicate")
		case !found || *n.LagSeconds < *donor.LagSeconds:
			donor, found = n, true
			why = fmt.Sprintf("the replica with the least lag (%.1f s)", *n.LagSeconds)
		}
	}
	if !found && primary != nil {
		donor, found, why = *primary, true, "no replica can give one ("+strings.Join(reasons, "; ")+"): it is the primary"
	}
	if !found {
		return donor, "", api.Refused("HA-NO-DONOR", "no node can give a backup: %s", strings.Join(reasons, "; ")).WithHint("`ha status` says what is wrong with them")
	}
	return donor, why, nil
}

// unfit says why a node cannot give a backup; "" if it can.
func unfit(st api.Status, n api.NodeStatus) string {
	errant := func(i api.Issue) bool { return i.Code == raftfsm.CodeErrant && i.Node == n.Name }
	switch {
	case n.Role == "witness":
		return "it is a witness"
	case n.Agent != "up":
		return "its agent is down"
	case n.Mysqld != raftfsm.MysqldRunning:
		return "its mysqld is " + string(n.Mysqld)
	case n.Doing != "":
		return n.Doing
	case slices.ContainsFunc(st.Issues, errant):
		return "it has transactions that the primary lacks"
	}
	return ""
}
