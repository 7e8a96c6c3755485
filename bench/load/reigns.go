package load

import (
	"fmt"
	"slices"
	"time"
)

// Reigns is what the acknowledgements say of who was the primary when.
type Reigns struct {
	Changes int // of the server that acknowledges
	Epochs  int // that began meanwhile, as the cluster says; -1: not known
	// Late are OKs of deposed servers for statements that were sent before their
	// successors' first OK: on the wire already, or waiting. Legal.
	Late int
	// Double are OKs of two servers that both accepted and acknowledged: for
	// statements sent after another server's first OK, which went on.
	Double int
}

// OK tells whether there was one primary at a time. A change without an epoch is a
// deposed server's OK, too.
func (r Reigns) OK() bool { return r.Double == 0 && (r.Epochs < 0 || r.Changes <= r.Epochs) }

func (r Reigns) String() string {
	s := fmt.Sprintf("changes of the primary: %d", r.Changes)
	if r.Epochs >= 0 {
		s += fmt.Sprintf(", of the epoch: %d", r.Epochs)
	}
	return s + fmt.Sprintf("; acknowledged twice over: %d", r.Double)
}

// twoChanges is how long it takes at least until a primary is succeeded and is the
// primary again: each change takes a request or a death, and several commits of the
// group. Who acknowledges before and after another server within it was never deposed.
const twoChanges = 100 * time.Millisecond

// reigns goes through the acknowledgements in order of time. A server that was not
// the last one to reign and gives an OK for a statement sent since reigns from then
// on, unless the other one goes on. One that gives its first OK for a statement sent
// before the other one's first has reigned before that, as its epoch says. Whose OKs came through an address that moves (a
// writer that is none of servers) is not known: they tell nothing here.
func reigns(servers []Server, acks []Ack, epochs int) Reigns {
	r := Reigns{Epochs: epochs}
	acks = slices.DeleteFunc(slices.Clone(acks), func(a Ack) bool {
		return !slices.ContainsFunc(servers, func(s Server) bool { return s.Name == a.Server })
	})
	current, since, over := "", time.Time{}, map[string]time.Time{} // over: a server's successor's first OK
	for i, a := range acks {
		switch deposed, was := over[a.Server]; {
		case a.Server == current:
		case was && a.Sent.Before(deposed):
			r.Late++
		case !was && a.Sent.Before(since):
			over[a.Server] = since
			r.Changes++
			r.Late++
		case current != "" && goesOn(acks[i+1:], current, a.At):
			r.Double++
		default:
			if current != "" {
				over[current] = a.At
				r.Changes++
			}
			current, since = a.Server, a.At
		}
	}
	return r
}

// goesOn says that a server accepts and acknowledges after an OK of another one.
func goesOn(later []Ack, server string, since time.Time) bool {
	for _, a := range later {
		if a.At.Sub(since) > twoChanges {
			break
		}
		if a.Server == server && a.Sent.After(since) {
			return true
		}
	}
	return false
}
