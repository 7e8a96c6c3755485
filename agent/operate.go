package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ha/agent/api"
	"ha/agent/wire"
	"ha/raftfsm"
)

// What people do with a cluster: they ask any agent, it passes on to the
// coordinator what only that can do, and the coordinator records it. What becomes
// of it stands in the replicated state, so that every agent can tell, whoever
// coordinates by then.

const (
	// operateBound bounds what one request to the coordinator may take.
	operateBound = 10 * time.Second
	// momentTries and momentPause are how often and how soon is looked again at
	// what may be over in a moment.
	momentTries = 30
	momentPause = 100 * time.Millisecond
	// reignBegins is how long the others may need to follow a new primary.
	reignBegins = 5 * time.Second
)

// clientName is in the certificates of command lines; agents have their ids there.
const clientName = "client"

func (a *Agent) operations(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathSwitchover, operate(a, api.PathSwitchover, func(ctx context.Context, in api.Ask) (api.Begun, error) {
		return a.coord.ask(ctx, raftfsm.RequestSwitchover, in)
	}))
	mux.HandleFunc("POST "+api.PathFailover, operate(a, api.PathFailover, func(ctx context.Context, in api.Ask) (api.Begun, error) {
		return a.coord.ask(ctx, raftfsm.RequestFailover, in)
	}))
	mux.HandleFunc("POST "+api.PathRemove, operate(a, api.PathRemove, a.coord.remove))
	mux.HandleFunc("POST "+api.PathPolicy, operate(a, api.PathPolicy, a.coord.setPolicy))
	mux.HandleFunc("GET "+api.PathPolicy, look(a, func(s raftfsm.State, _ string, _ url.Values) (api.Policy, error) {
		return api.Policy{Settings: settings(s.Policy)}, nil
	}))
	mux.HandleFunc("GET "+api.PathEvents, look(a, func(s raftfsm.State, _ string, q url.Values) (api.Events, error) {
		n, err := strconv.Atoi(q.Get("n"))
		if err != nil || n < 0 || n > len(s.Events) {
			n = len(s.Events)
		}
		return api.Events{Events: slices.Concat([]raftfsm.Event{}, s.Events[len(s.Events)-n:]), Source: a.cfg.Name}, nil
	}))
	mux.HandleFunc("GET "+api.PathRequest, look(a, func(s raftfsm.State, doing string, q url.Values) (api.Outcome, error) {
		index, err := strconv.ParseUint(q.Get("index"), 10, 64)
		if err != nil {
			return api.Outcome{}, api.Usage("index: %q is not a number", q.Get("index"))
		}
		if id := q.Get("removed"); id != "" {
			return removal(&s, index, raftfsm.NodeID(id), doing), nil
		}
		return outcome(&s, index, raftfsm.NodeID(q.Get("target")), doing), nil
	}))
}

var errNoCoordinator = api.NoQuorum("no coordinator is elected: a majority of the agents has to be up").
	WithHint("`ha status` says which agents are silent")

// operate serves what only the coordinator does. What an agent passed on is not
// passed on once more: two agents may take each other for the coordinator.
func operate[In, Out any](a *Agent, path string, do func(context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if wire.PeerName(r.TLS) != clientName {
			take(do)(w, r)
			return
		}
		take(func(ctx context.Context, in In) (Out, error) {
			ctx, cancel := context.WithTimeout(ctx, operateBound)
			defer cancel()
			a.awaitLeader(ctx)
			var out Out
			var err error
			switch id, addr := a.leader(); id {
			case "":
				err = errNoCoordinator
			case string(a.id):
				out, err = do(ctx, in)
			default:
				out, err = call[Out](ctx, a.client, addr, path, in)
			}
			var own *api.Error
			if err != nil && !errors.As(err, &own) {
				err = api.NoQuorum("the coordinator does not answer: %w", err).WithHint("%s", errNoCoordinator.Hint)
			}
			return out, err
		})(w, r)
	}
}

// look serves what every agent can tell from its copy of the state. The
// coordinator's is preferred: it is the newest.
func look[Out any](a *Agent, own func(s raftfsm.State, doing string, q url.Values) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s, _, doing, leading := a.coord.status(); leading {
			out, err := own(s, doing, r.URL.Query())
			reply(w, out, err)
			return
		}
		doing := "no coordinator is elected"
		if id, addr := a.leader(); id != "" && id != string(a.id) && wire.PeerName(r.TLS) == clientName {
			ctx, cancel := context.WithTimeout(r.Context(), statusBound)
			out, err := call[Out](ctx, a.client, addr, r.URL.RequestURI(), nil)
			cancel()
			var refused *api.Error
			if err == nil || errors.As(err, &refused) {
				reply(w, out, err)
				return
			}
			doing = "the coordinator does not answer"
		}
		out, err := own(a.fsm.State(), doing, r.URL.Query())
		reply(w, out, err)
	}
}

// surely gives state and view of a coordinator that has just been verified.
func (c *coordinator) surely(ctx context.Context) (raftfsm.State, raftfsm.View, error) {
	if _, _, leading := c.look(); !leading {
		return raftfsm.State{}, raftfsm.View{}, errNotCoordinator
	}
	if err := c.verify(ctx); err != nil {
		return raftfsm.State{}, raftfsm.View{}, api.NoQuorum("no majority of agents answers the coordinator: %w", err).WithHint("%s", errNoCoordinator.Hint)
	}
	s, v, leading := c.look()
	if !leading {
		return s, v, errNotCoordinator
	}
	return s, v, nil
}

// record makes a command of the state and commits it. A command that is dropped
// as the state has moved meanwhile is made anew. plan gives none to end early.
func (c *coordinator) record(ctx context.Context, plan func(s *raftfsm.State, v *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error)) (uint64, error) {
	for try := 1; ; try++ {
		s, v, err := c.surely(ctx)
		if err != nil {
			return 0, err
		}
		cmd, no, err := plan(&s, &v)
		switch {
		case err != nil:
			return 0, err
		case no.Code != "" && (try == momentTries || !overInAMoment(&s, &v, no)):
			return 0, refusal(no)
		case no.Code != "":
			if pause(ctx, momentPause) != nil {
				return 0, refusal(no)
			}
			continue
		case cmd == nil:
			return 0, nil
		}
		cmd.On = s.Version
		index, dropped, err := c.apply(ctx, *cmd)
		switch {
		case err != nil:
			return 0, api.NoQuorum("not recorded for sure: %w", err).WithHint("`ha events` shows whether it was")
		case dropped == "":
			c.wake()
			return index, nil
		case try == momentTries || pause(ctx, momentPause/10) != nil:
			return 0, api.Busy("the cluster is changing: %s", dropped).WithHint("try again in a second")
		}
	}
}

// overInAMoment says that a refusal may be none when one looks again: the ack set
// is being changed, a reign has only just begun, or this coordinator to hear
// reports.
func overInAMoment(s *raftfsm.State, v *raftfsm.View, no raftfsm.Refusal) bool {
	switch no.Code {
	case raftfsm.CodeInProgress:
		return s.Request == nil
	case raftfsm.CodeSilent, raftfsm.CodeCannotClose, raftfsm.CodeNeeded:
		return v.Leading <= s.Policy.DeadAfter
	case raftfsm.CodeNotFollowing, raftfsm.CodeBehind, raftfsm.CodeNoCandidate: // of a primary that has just taken over
		return v.Leading <= s.Policy.DeadAfter || v.PhaseAge <= reignBegins
	case raftfsm.CodeNotSettled:
		return s.Phase == raftfsm.PhasePromote
	}
	return false
}

// refusal gives a refusal its exit code.
func refusal(no raftfsm.Refusal) error {
	e := api.Refused(no.Code, "%s", no.Text)
	switch no.Code {
	case raftfsm.CodeInProgress, raftfsm.CodeNotSettled:
		e.Code = api.ExitBusy
		return e.WithHint("`ha status` and `ha events` say what is going on")
	case raftfsm.CodeCannotClose:
		return e.WithHint("`ha failover --dry-run --allow-data-loss` says what may be lost")
	case raftfsm.CodeSilent:
		return e.WithHint("`ha status` says how the nodes are; a primary that is gone is replaced by `ha failover`")
	case raftfsm.CodeNoEngine:
		return e.WithHint("install the tool on both hosts, or copy with --engine clone")
	case raftfsm.CodePlace:
		return e.WithHint("the data come by rename: mysql.data_dir is to be a directory of its own with all of the data in it. The host is looked at every 10 s")
	case raftfsm.CodeDonorBusy, raftfsm.CodeRebuilding:
		e.Code = api.ExitBusy
		return e.WithHint("`ha rebuild status` tells of the copies that are made")
	case raftfsm.CodeNotFollowing, raftfsm.CodeBehind, raftfsm.CodeNoCandidate, raftfsm.CodeErrant:
		return e.WithHint("`ha status` says how the nodes are")
	}
	return e
}

// findNode gives the member that a person means, by name or id.
func findNode(s *raftfsm.State, word string) (raftfsm.Member, error) {
	if m, ok := s.MemberByName(word); ok {
		return m, nil
	}
	if m, ok := s.Member(raftfsm.NodeID(word)); ok {
		return m, nil
	}
	var known []string
	for _, m := range s.Members {
		known = append(known, m.Name)
	}
	slices.Sort(known)
	e := api.Usage("there is no node %q", word)
	if near := Nearest(word, known); near != "" {
		return raftfsm.Member{}, e.WithHint("Did you mean %s? Nodes: %s.", near, strings.Join(known, ", "))
	}
	return raftfsm.Member{}, e.WithHint("Nodes: %s.", strings.Join(known, ", "))
}

// ask records a switchover or failover, or says what it would do.
func (c *coordinator) ask(ctx context.Context, kind raftfsm.RequestKind, in api.Ask) (api.Begun, error) {
	var b api.Begun
	index, err := c.record(ctx, func(s *raftfsm.State, v *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error) {
		var to raftfsm.Member
		if in.Node != "" {
			var err error
			if to, err = findNode(s, in.Node); err != nil {
				return nil, raftfsm.Refusal{}, err
			}
		}
		b = api.Begun{Target: to.ID, Name: to.Name, Primary: s.Name(s.Primary), Epoch: s.Epoch, Seen: lastEvent(s)}
		if b.Index = asked(s, kind, to, in.Seen); b.Index != 0 {
			return nil, raftfsm.Refusal{}, nil // the first answer was lost
		}
		var r raftfsm.Request
		var no raftfsm.Refusal
		if kind == raftfsm.RequestSwitchover {
			r, no = raftfsm.PlanSwitchover(s, v, to.ID)
		} else {
			r, no = raftfsm.PlanFailover(s, v, to.ID, in.AllowLoss)
		}
		switch {
		case no.Code == raftfsm.CodeAlready:
			b.Already, b.Text, b.Plan = true, no.Text, []string{}
			return nil, raftfsm.Refusal{}, nil
		case no.Code != "":
			return nil, no, nil
		}
		r.Timeout, r.EndBlockers = in.Timeout, in.EndBlockers
		if r.Target != "" {
			b.Target, b.Name = r.Target, s.Name(r.Target)
		}
		b.Plan, b.Loss = words(s, v, r)
		if in.DryRun {
			return nil, raftfsm.Refusal{}, nil
		}
		return &raftfsm.Command{Kind: raftfsm.CmdRequest, Request: &r}, raftfsm.Refusal{}, nil
	})
	if index != 0 {
		b.Index = index
	}
	return b, err
}

func lastEvent(s *raftfsm.State) uint64 {
	if n := len(s.Events); n > 0 {
		return s.Events[n-1].Index
	}
	return 0
}

// asked finds the same request, recorded after the asker had looked.
func asked(s *raftfsm.State, kind raftfsm.RequestKind, to raftfsm.Member, seen uint64) uint64 {
	text := string(kind) + " asked for"
	if to.ID != "" {
		text += " to " + to.Name
	}
	for _, e := range s.Events {
		if seen != 0 && e.Index > seen && e.Kind == raftfsm.CmdRequest && strings.HasPrefix(e.Text, text) {
			return e.Index
		}
	}
	return 0
}

// answering picks those whose agents were heard of lately.
func answering(s *raftfsm.State, v *raftfsm.View, ids []raftfsm.NodeID) []string {
	out := []string{}
	for _, id := range ids {
		if n := v.Node(id); n.Report != nil && n.Age <= s.Policy.DeadAfter {
			out = append(out, s.Name(id))
		}
	}
	slices.Sort(out)
	return out
}

// words says what a request would do, and what may be lost by it.
func words(s *raftfsm.State, v *raftfsm.View, r raftfsm.Request) (plan []string, loss string) {
	say := func(format string, args ...any) { plan = append(plan, fmt.Sprintf(format, args...)) }
	var ackers, others []raftfsm.NodeID
	for _, a := range s.Ackers {
		ackers = append(ackers, a.Node)
	}
	for _, m := range s.DataMembers() {
		if m.ID != s.Primary {
			others = append(others, m.ID)
		}
	}
	old, need := s.Name(s.Primary), raftfsm.Need(s.Ackers, s.K)
	up := answering(s, v, ackers)
	closing := "nobody else could close it: commits wait for no replica"
	if s.K > 0 {
		closing = fmt.Sprintf("%d of its %d ackers (%s) would have to be closed, and %d answer now",
			need, len(ackers), strings.Join(namesOf(s, ackers), ", "), len(up))
	}
	to := s.Name(r.Target)
	if r.Kind == raftfsm.RequestSwitchover {
		say("%s is made ready: it applies all that %s has, and begins a new binary log", to, old)
		if len(r.Chain) > 0 {
			say("%s replicates from %s beforehand, so that the first commit there finds its acknowledgement", strings.Join(namesOf(s, r.Chain), " and "), to)
		}
		if r.EndBlockers {
			say("%s is made read-only, which closes epoch %d; sessions that hold it up are ended", old, s.Epoch)
		} else {
			say("%s is made read-only, which closes epoch %d; where a session holds it up, %s goes on as before and nothing has changed (--end-blockers ends such sessions)", old, s.Epoch, old)
		}
		if p := v.Node(s.Primary).Report; p != nil && p.Waiting > 0 {
			say("%s on %s for acknowledgements now: they come first", plural(p.Waiting, "commit waits", "commits wait"), old)
		}
		say("without %s, should it die meanwhile, %s", old, closing)
		say("%s is opened as the primary of epoch %d, and the others follow it", to, s.Epoch+1)
		return plan, ""
	}
	primaryUp := len(answering(s, v, []raftfsm.NodeID{s.Primary})) > 0
	if primaryUp {
		say("%s is made read-only, or killed if it does not become so in time: its position closes epoch %d", old, s.Epoch)
	} else {
		say("epoch %d is closed without %s, which does not answer: %s", s.Epoch, old, closing)
	}
	live := answering(s, v, others)
	if !primaryUp && (s.K == 0 || len(up) < need) {
		wait := s.Policy.Lease + raftfsm.FenceSlack
		say("it cannot be closed by those that answer: after the lease and a moment (%s) it is given up, and the best of those that answer (%s) goes on without it", wait, strings.Join(live, ", "))
		silent := slices.DeleteFunc(namesOf(s, ackers), func(name string) bool { return slices.Contains(up, name) })
		loss = "rows that " + old + " wrote and nobody else has"
		if len(silent) > 0 {
			loss = fmt.Sprintf("rows that %s wrote and, of the others, only %s may have", old, strings.Join(silent, ", "))
		}
		loss += "; they do not come back by themselves when those hosts return"
	}
	switch {
	case to == "" && len(live) == 1:
		say("%s is opened as the primary of epoch %d", live[0], s.Epoch+1)
	case to == "":
		say("the most advanced of %s is opened as the primary of epoch %d, and the others follow it", strings.Join(live, ", "), s.Epoch+1)
	default:
		say("%s is opened as the primary of epoch %d if it has every row that can have been acknowledged, else the best one that has; the others follow it", to, s.Epoch+1)
	}
	return plan, loss
}

func namesOf(s *raftfsm.State, ids []raftfsm.NodeID) []string {
	var out []string
	for _, id := range ids {
		out = append(out, s.Name(id))
	}
	slices.Sort(out)
	return out
}

// codes of outcomes.
const (
	codeGivenUp      = "HA-GIVEN-UP"      // a switchover was not prepared in time, or not any more
	codeOtherPrimary = "HA-OTHER-PRIMARY" // another node than the wanted one was promoted
)

// outcome says what became of the request recorded at index: the first primary
// that settled after it, or why it was given up. Target is the wanted primary;
// empty: any but the one before.
func outcome(s *raftfsm.State, index uint64, target raftfsm.NodeID, doing string) api.Outcome {
	o := api.Outcome{Doing: doing, Events: []raftfsm.Event{}, Primary: s.Name(s.Primary), Epoch: s.Epoch}
	first := slices.IndexFunc(s.Events, func(e raftfsm.Event) bool { return e.Index >= index })
	switch {
	case first < 0:
		o.Doing = "waiting for an agent that knows of it"
		return o
	case s.Events[first].Index != index:
		o.Done, o.Exit = true, api.ExitTimeout
		o.Text, o.Next = "what became of it is forgotten", "`ha status` says who is the primary"
		return o
	}
	before := "" // the primary then
	for _, r := range s.History {
		if r.Epoch == s.Events[first].Epoch {
			before = s.Name(r.Primary)
		}
	}
	o.Events = append(o.Events, s.Events[first+1:]...)
	var last string // the promotion
	for _, e := range o.Events {
		o.TookMS = max(e.At-s.Events[first].At, 0)
		end := func(exit int, code, text, next string) api.Outcome {
			o.Done, o.Doing, o.OK, o.Exit, o.Code, o.Text, o.Next = true, "", exit == api.ExitOK, exit, code, text, next
			return o
		}
		switch e.Kind {
		case raftfsm.CmdResume:
			return end(api.ExitBusy, raftfsm.CodeBlocked, e.Text, "nothing has changed; end the sessions that hold it up, or have them ended: ha switchover --end-blockers")
		case raftfsm.CmdRequest:
			if !strings.Contains(e.Text, "given up") {
				continue // another one in its place: a loss was accepted, say
			}
			return end(api.ExitFailed, codeGivenUp, e.Text, "nothing has changed; `ha status` says how the nodes are")
		case raftfsm.CmdPromote:
			last = e.Text
		case raftfsm.CmdSettle:
			o.Epoch = e.Epoch
			var now raftfsm.NodeID
			for _, r := range s.History {
				if r.Epoch == e.Epoch {
					now = r.Primary
				}
			}
			o.Primary = s.Name(now)
			text := fmt.Sprintf("%s is the primary of epoch %d", o.Primary, o.Epoch)
			if _, lost, ok := strings.Cut(last, "; "); ok {
				text += "; " + lost
			}
			if now == target || target == "" && o.Primary != before {
				return end(api.ExitOK, "", text, "")
			}
			want := "another one than " + before
			if target != "" {
				want = s.Name(target)
			}
			return end(api.ExitFailed, codeOtherPrimary, text+", and not "+want, "`ha events` tells what happened; `ha switchover --to NODE` moves it again")
		}
	}
	return o
}

// removal says how far the removal of a node is that was recorded at index.
func removal(s *raftfsm.State, index uint64, id raftfsm.NodeID, doing string) api.Outcome {
	o := api.Outcome{Doing: doing, Events: []raftfsm.Event{}, Primary: s.Name(s.Primary), Epoch: s.Epoch}
	for _, e := range s.Events {
		if e.Index > index {
			o.Events = append(o.Events, e)
		}
	}
	switch m, ok := s.Member(id); {
	case lastEvent(s) < index:
		o.Doing = "waiting for an agent that knows of it"
	case !ok:
		o.Done, o.OK, o.Doing, o.Text = true, true, "", "it was forgotten"
	case !m.Leaving:
		o.Done, o.Doing, o.Exit, o.Code = true, "", api.ExitFailed, codeGivenUp
		o.Text = m.Name + " is not to leave any more"
	}
	return o
}

// settings are all settings of a policy.
func settings(p raftfsm.Policy) []api.Setting {
	normal := raftfsm.DefaultPolicy()
	out := []api.Setting{}
	for _, f := range raftfsm.PolicyFields {
		out = append(out, api.Setting{Name: f.Name, Value: f.Get(&p), Default: f.Get(&normal)})
	}
	return out
}

// setPolicy changes settings: all or none.
func (c *coordinator) setPolicy(ctx context.Context, in api.SetPolicy) (api.Policy, error) {
	var out api.Policy
	_, err := c.record(ctx, func(s *raftfsm.State, _ *raftfsm.View) (*raftfsm.Command, raftfsm.Refusal, error) {
		if s.Cluster == "" {
			return nil, raftfsm.Refusal{}, api.Busy("the cluster is being founded").WithHint("try again in a second")
		}
		if err := CheckSettings(in.Set); err != nil {
			return nil, raftfsm.Refusal{}, err
		}
		p, err := s.Policy.With(in.Set...)
		if err != nil {
			return nil, raftfsm.Refusal{}, api.Usage("%w", err)
		}
		out = api.Policy{Settings: settings(p)}
		for i, was := range settings(s.Policy) {
			if now := out.Settings[i]; now.Value != was.Value {
				out.Changed = append(out.Changed, api.Change{Name: was.Name, From: was.Value, To: now.Value})
			}
		}
		if len(out.Changed) == 0 {
			return nil, raftfsm.Refusal{}, nil
		}
		return &raftfsm.Command{Kind: raftfsm.CmdPolicy, Policy: &p}, raftfsm.Refusal{}, nil
	})
	return out, err
}

// CheckSettings says all that is wrong with settings, each name=value, as far as
// that can be said without the cluster.
func CheckSettings(set []string) error {
	var wrong []string
	var known []string
	for _, f := range raftfsm.PolicyFields {
		known = append(known, f.Name)
	}
	seen := map[string]bool{}
	for _, setting := range set {
		name, value, ok := strings.Cut(setting, "=")
		i := slices.IndexFunc(raftfsm.PolicyFields, func(f raftfsm.PolicyField) bool { return f.Name == name })
		switch near := Nearest(name, known); {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%q: want name=value", setting))
		case i < 0 && near != "":
			wrong = append(wrong, fmt.Sprintf("%s: no such setting; did you mean %s?", name, near))
		case i < 0:
			wrong = append(wrong, fmt.Sprintf("%s: no such setting; there are %s", name, strings.Join(known, ", ")))
		case seen[name]:
			wrong = append(wrong, name+": given twice")
		default:
			p := raftfsm.DefaultPolicy()
			if err := raftfsm.PolicyFields[i].Set(&p, value); err != nil {
				wrong = append(wrong, name+": "+valueError(value, err))
			}
		}
		seen[name] = true
	}
	switch len(wrong) {
	case 0:
		return nil
	case 1:
		return api.Usage("%s", wrong[0]).WithHint("`ha config show` lists the settings.")
	}
	return api.Usage("%d settings are wrong:\n  - %s", len(wrong), strings.Join(wrong, "\n  - ")).WithHint("`ha config show` lists the settings.")
}

// valueError puts what Go's parsers say into words.
func valueError(value string, err error) string {
	var number *strconv.NumError
	switch {
	case errors.As(err, &number) && number.Func == "ParseBool":
		return fmt.Sprintf("%q is neither true nor false", value)
	case errors.As(err, &number):
		return fmt.Sprintf("%q is not a number", value)
	case strings.HasPrefix(err.Error(), "time: "):
		return fmt.Sprintf("%q is not a time like 1500ms, 30s or 10m", value)
	}
	return err.Error()
}
