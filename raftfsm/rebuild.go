package raftfsm

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ha/mysqlctl/gtid"
)

// CopyReady is the phase of a copy that is verified and waits for the order to be
// put in place (RebuildReport.Phase).
const CopyReady = "ready"

// Codes of refused rebuilds.
const (
	CodeDonorBusy = "HA-DONOR-BUSY" // it is being copied from, or too many copies are made
	CodeNoSpace   = "HA-NO-SPACE"   // the copy does not fit
	CodeVersion   = "HA-VERSION"    // the versions of donor and recipient do not go together
	CodeLeaving   = "HA-LEAVING"    // it is to be forgotten
	CodeNoEngine  = "HA-NO-ENGINE"  // a host lacks the tool, or the tool does not know the server
	CodePlace     = "HA-PLACE"      // no copy can be put in the place of the data
)

// copySpare is room that a copy leaves free, in bytes.
const copySpare = 256 << 20

// fillFrom is how much data the primary has from which on an empty member is filled by
// a copy: to replay all that was ever written takes longer. A new server has 70 MB.
const fillFrom = 128 << 20

// DonorChoice is what speaks for and against copying from a member.
type DonorChoice struct {
	Node NodeID
	Fit  bool
	Text string
}

// PlanRebuild makes the wish to copy a member's data anew, or says why not. The
// choices are all other members, the best donor first. A wish without an engine gets
// the first one that recipient and some donor can both copy with.
func PlanRebuild(s *State, v *View, w Wish) (Wish, []DonorChoice, Refusal) {
	if w.Engine != "" {
		return planRebuild(s, v, w)
	}
	w.Engine = EngineClone
	plan, lines, no := planRebuild(s, v, w)
	if no.Code != CodeVersion && no.Code != CodeNoEngine && no.Code != CodeNoCandidate {
		return plan, lines, no
	}
	for _, e := range Engines[1:] {
		w.Engine = e
		other, otherLines, why := planRebuild(s, v, w)
		if why.Code == "" {
			return other, otherLines, why
		}
		if no.Code != CodeNoCandidate { // it is CLONE that is to blame
			no.Text += "; " + why.Text
		}
	}
	return plan, lines, no
}

func planRebuild(s *State, v *View, w Wish) (Wish, []DonorChoice, Refusal) {
	d := &decider{s: s, v: v}
	if no := d.mayBeRebuilt(w); no.Code != "" {
		return w, nil, no
	}
	m, _ := s.Member(w.Recipient)
	cands := d.donors(m, w)
	var lines []DonorChoice
	for i, c := range cands {
		say := c.m.Name + " is fit: " + c.say
		switch {
		case c.no.Code != "":
			say = "not from " + c.m.Name + ": " + c.no.Text
		case i == 0:
			say = "from " + c.m.Name + ": " + c.say
		}
		lines = append(lines, DonorChoice{c.m.ID, c.no.Code == "", say})
	}
	switch {
	case len(cands) == 0:
		return w, lines, Refusal{CodeNoCandidate, "there is no other member with a mysqld to copy from"}
	case cands[0].no.Code != "" && w.From != "":
		return w, lines, cands[0].no
	case cands[0].no.Code != "":
		return w, lines, worst(cands)
	case len(s.Rebuilds) >= s.Policy.rebuildCap():
		return w, lines, Refusal{CodeDonorBusy, fmt.Sprintf("%s under way, which is all that the policy allows (max_rebuilds)", plural(len(s.Rebuilds)))}
	}
	return w, lines, Refusal{}
}

// worst says why nobody can be copied from: the one reason if it is the same for
// all, else all of them.
func worst(cands []donor) Refusal {
	no := Refusal{Code: cands[0].no.Code}
	var why []string
	for _, c := range cands {
		if c.no.Code != no.Code {
			no.Code = CodeNoCandidate
		}
		why = append(why, c.no.Text)
	}
	no.Text = "there is nobody to copy from: " + strings.Join(why, "; ")
	return no
}

// mayBeRebuilt says why the data of the recipient must not be replaced now.
func (d *decider) mayBeRebuilt(w Wish) Refusal {
	m, ok := d.s.Member(w.Recipient)
	n, p := d.v.Node(w.Recipient), d.v.Node(d.s.Primary)
	_, wished := d.s.Wish(w.Recipient)
	_, leased := d.s.Rebuild(w.Recipient)
	_, acker := d.s.Acker(w.Recipient)
	no := func(code, text string) Refusal { return Refusal{code, m.Name + " " + text} }
	switch {
	case !ok:
		return Refusal{CodeNotDataNode, string(w.Recipient) + " is no member"}
	case m.Witness:
		return no(CodeNotDataNode, "is a witness and has no data")
	case m.ID == d.s.Primary:
		return no(CodeIsPrimary, "is the primary: make another node the primary first (ha switchover)")
	case m.Leaving:
		return no(CodeLeaving, "is to be forgotten")
	case w.Engine != "" && !slices.Contains(Engines, w.Engine):
		return Refusal{CodeNoEngine, "there is no engine " + string(w.Engine)}
	case wished || leased:
		return no(CodeRebuilding, "is being rebuilt already: `ha rebuild status` tells how far it is")
	case d.s.Phase != PhaseSettled:
		return Refusal{CodeNotSettled, "there is no settled primary; its rows are what a copy is measured by"}
	case d.s.Request != nil:
		return Refusal{CodeInProgress, "a " + string(d.s.Request.Kind) + " is under way"}
	case d.s.Intent != nil:
		return Refusal{CodeInProgress, "the ack set is being changed; try again in a second"}
	case !d.fresh(p) || p.Report.Mysqld != MysqldRunning:
		return Refusal{CodeSilent, "the primary " + d.name(d.s.Primary) + " does not answer"}
	case !d.fresh(n):
		return no(CodeSilent, "does not answer: start its agent, which makes the copy")
	case n.Report.Mysqld == MysqldHung:
		return no(CodeSilent, "has a mysqld that hangs, and nobody knows what it acknowledges when it goes on: kill it first")
	case d.gives(m.ID):
		return no(CodeDonorBusy, "is being copied from: wait for the end of that")
	case acker && d.attachedBut(m.ID) < d.s.K:
		return no(CodeNeeded, "is needed: without it commits would wait for acknowledgements that nobody gives. Add a node, or ask for fewer (ha config set acks="+strconv.Itoa(d.s.K-1)+")")
	}
	if no := unfitPlace(m, n.Report, w.Engine); no.Code != "" {
		return no
	}
	if w.InPlace {
		return d.mayLoseOld(m, n)
	}
	return Refusal{}
}

// mayLoseOld says why the old data must not be removed before there is a copy.
func (d *decider) mayLoseOld(m Member, n *NodeView) Refusal {
	r, p := n.Report, d.v.Node(d.s.Primary)
	holds := r.Position() // what it has received and cannot apply may be nowhere else, after a loss
	if r.Mysqld != MysqldRunning {
		holds = holds.Union(d.s.Checkpoint(m.ID))
	}
	errant := d.notAtPrimary(p, holds)
	switch {
	case r.Mysqld != MysqldRunning && (d.lossyReign(m.ServerUUID) || d.lossEver()): // what is known of it may be from before its last rows
		return Refusal{CodeNeeded, m.Name + " may hold the last copy of acknowledged rows: its data are not removed before there is a copy (no --in-place)"}
	case !errant.IsEmpty():
		return Refusal{CodeErrant, m.Name + " holds transactions that nobody else has (" + errant.String() + "): they are kept beside a copy, and --in-place would remove them"}
	}
	for _, o := range d.s.DataMembers() {
		if o.ID != m.ID && o.ID != d.s.Primary && d.donorUnfit(o).Code == "" {
			return Refusal{}
		}
	}
	if r.Mysqld != MysqldRunning || d.unfit(m.ID).Code == CodeNotFollowing {
		return Refusal{} // it is no good copy
	}
	return Refusal{CodeNeeded, m.Name + " has the only good copy beside the primary's: it is not removed before there is another one (no --in-place)"}
}

// lossyReign says that the last reign of this server may have acknowledged rows
// that nobody else has.
func (d *decider) lossyReign(uuid string) bool {
	_, lossy := d.lossySince(uuid)
	return lossy
}

// lossEver says that rows of some reign before the present one may be nowhere but on
// members that were away when it was succeeded.
func (d *decider) lossEver() bool {
	return d.s.LossForgotten || slices.ContainsFunc(d.s.History, func(r Reign) bool { return r.Lossy })
}

func (d *decider) donates(id NodeID) bool {
	return slices.ContainsFunc(d.s.Rebuilds, func(r Rebuild) bool { return r.Donor == id })
}

// gives says that the member is being copied from, for a rebuild or for a backup: its
// server makes one copy at a time, of itself or of another.
func (d *decider) gives(id NodeID) bool {
	r := d.v.Node(id).Report
	return d.donates(id) || r != nil && r.Giving
}

// donor is a member that could be copied from, or why not.
type donor struct {
	m   Member
	no  Refusal
	say string // what speaks for it, and against
	lag time.Duration
}

// donors gives those that the recipient could be copied from, the best first:
// healthy, not the primary, not the one that failed last, in the same zone, least lag.
// When all but one of the attempts have failed the primary comes before that one: there
// may be no way to it from here.
func (d *decider) donors(rec Member, w Wish) []donor {
	last := rec.RebuildsFailed == maxRebuilds-1
	var out []donor
	for _, m := range d.s.DataMembers() {
		if m.ID == rec.ID || w.From != "" && m.ID != w.From {
			continue
		}
		c := donor{m: m, no: d.donorUnfit(m)}
		if c.no.Code == "" {
			c.no = d.donorUnsuited(rec, m, w)
		}
		if c.say = "the primary, which has its clients to serve"; m.ID != d.s.Primary && c.no.Code == "" {
			c.lag = d.v.Node(m.ID).Report.Replica.Lag
			c.say = fmt.Sprintf("a healthy replica, %.1f s late", c.lag.Seconds())
		}
		if m.Zone != "" && m.Zone == rec.Zone {
			c.say += ", in the same zone"
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b donor) int {
		return cmp.Or(first(a.no.Code == "", b.no.Code == ""), first(last && a.m.ID != w.Failed, last && b.m.ID != w.Failed),
			first(a.m.ID != d.s.Primary, b.m.ID != d.s.Primary), first(a.m.ID != w.Failed, b.m.ID != w.Failed), first(a.m.Zone == rec.Zone, b.m.Zone == rec.Zone),
			cmp.Compare(a.lag/time.Second, b.lag/time.Second), strings.Compare(a.m.Name, b.m.Name))
	})
	return out
}

// donorUnfit says why a member's data are not to be copied.
func (d *decider) donorUnfit(m Member) Refusal {
	n, p := d.v.Node(m.ID), d.v.Node(d.s.Primary)
	_, wished := d.s.Wish(m.ID)
	_, leased := d.s.Rebuild(m.ID)
	no := func(code, text string) Refusal { return Refusal{code, m.Name + " " + text} }
	switch {
	case m.Witness:
		return no(CodeNotDataNode, "is a witness and has no data")
	case wished || leased:
		return no(CodeRebuilding, "is being rebuilt itself")
	case d.donates(m.ID):
		return no(CodeDonorBusy, "is being copied from already, and a server gives one copy at a time")
	case !d.fresh(n) || n.Report.Mysqld != MysqldRunning:
		return no(CodeSilent, "does not answer: look at its agent and its mysqld")
	case n.Report.Giving:
		return no(CodeDonorBusy, "is giving a backup, and a server gives one copy at a time")
	case m.ID == d.s.Primary:
		return Refusal{}
	}
	if errant := d.errantOf(p, n.Report); !errant.IsEmpty() {
		return no(CodeErrant, "holds transactions that the primary lacks: "+errant.String())
	}
	lacks := d.s.Floor.Minus(n.Report.Executed)
	switch c := n.Report.Replica; {
	case c == nil || !c.IORunning || !c.SQLRunning || c.SourceUUID != d.s.PrimaryUUID:
		return no(CodeNotFollowing, "does not replicate from the primary")
	case c.Lag > d.s.Policy.MaxAckerLag:
		return no(CodeBehind, fmt.Sprintf("applies %s late", c.Lag.Round(time.Second)))
	case !lacks.IsEmpty():
		return no(CodeBehind, "has not applied all that the primary began with: "+lacks.String())
	}
	return Refusal{}
}

// donorUnsuited says why a donor does not go with this recipient.
func (d *decider) donorUnsuited(rec, m Member, w Wish) Refusal {
	from, to := d.v.Node(m.ID).Report, d.v.Node(rec.ID).Report
	if to == nil {
		return Refusal{}
	}
	if no := unfitPlace(rec, to, w.Engine); no.Code != "" {
		return no
	}
	if no := lacks(m, from, w.Engine); no.Code != "" {
		return no
	}
	why := notCloneable(from.Version, to.Version)
	if w.Engine.Streams() {
		why = notStreamable(from.Version, to.Version)
	}
	if why != "" {
		return Refusal{CodeVersion, fmt.Sprintf("%s runs MySQL %s and %s %s: %s", m.Name, from.Version, rec.Name, to.Version, why)}
	}
	room := to.DiskFree
	if w.InPlace {
		room += to.DataSize
	}
	if need := from.DataSize + copySpare; from.DataSize > 0 && to.DiskFree > 0 && room < need {
		text := fmt.Sprintf("%s has %s free and a copy of %s takes %s: make room", rec.Name, size(room), m.Name, size(need))
		if !w.InPlace {
			text += ", or have its old data removed first (--in-place)"
		}
		return Refusal{CodeNoSpace, text}
	}
	return Refusal{}
}

// unfitPlace says why a recipient cannot take a copy by an engine.
func unfitPlace(m Member, r *Report, e Engine) Refusal {
	if r.NoCopy != "" {
		return Refusal{CodePlace, "no copy can be put in the place of the data of " + m.Name + ": " + r.NoCopy}
	}
	return lacks(m, r, e)
}

// lacks says why a host cannot copy with an engine.
func lacks(m Member, r *Report, e Engine) Refusal {
	why := "its agent has not said that it can"
	if !e.Streams() {
		e, why = EngineClone, ""
	}
	if i := slices.IndexFunc(r.Engines, func(have EngineReport) bool { return have.Engine == e }); i >= 0 {
		why = r.Engines[i].No
	}
	if why == "" {
		return Refusal{}
	}
	return Refusal{CodeNoEngine, fmt.Sprintf("%s cannot copy with %s: %s", m.Name, e, why)}
}

// notCloneable says why CLONE does not go from one version to the other. A
// version that is not known goes: CLONE itself looks again.
func notCloneable(from, to string) string {
	switch {
	case from == "" || to == "":
		return ""
	case CompareVersions(from, to) != 0:
		return "CLONE needs the same series"
	case CompareVersions(from, "8.0") < 0 || CompareVersions(from, "8.0") == 0 && min(patch(from), patch(to)) < 17:
		return "CLONE needs 8.0.17"
	case CompareVersions(from, "8.0") == 0 && min(patch(from), patch(to)) < 37 && patch(from) != patch(to):
		return "before 8.0.37 CLONE needs equal versions"
	}
	return ""
}

// notStreamable says why a copy that a tool has made of one version is of no use to
// the other.
func notStreamable(from, to string) string {
	switch {
	case from == "" || to == "":
		return ""
	case CompareVersions(from, to) != 0:
		return "a copy of another series cannot be prepared"
	case patch(to) < patch(from) && notCloneable(from, to) != "":
		return "a server does not open the data of a newer one"
	}
	return ""
}

// patch is the third number of a version.
func patch(v string) int {
	parts := strings.SplitN(v, ".", 3)
	if len(parts) < 3 {
		return 0
	}
	digits := parts[2]
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i]
	}
	n, _ := strconv.Atoi(digits)
	return n
}

// size is a number of bytes as people say it.
func size(n int64) string {
	if n < 10<<30 {
		return fmt.Sprintf("%d MB", n>>20)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/(1<<30))
}

// --- decisions.

// wished goes on with what a person has asked for until there is a lease. It says
// whether the node is to be left alone otherwise.
func (d *decider) wished(n *NodeView, m Member) bool {
	w, ok := d.s.Wish(m.ID)
	if !ok || !d.fresh(n) {
		return false
	}
	if errant := d.astray(w.From); !errant.IsEmpty() {
		d.endRebuild(m.ID, fmt.Sprintf("%s, which it was to be copied from, has diverged (errant transactions %s)", d.name(w.From), errant))
		return true
	}
	if _, acker := d.s.Acker(m.ID); acker {
		d.why("%s is to be rebuilt and is needed in the ack set yet", m.Name)
		return false // removeAcker lets it leave as soon as it may
	}
	if w.InPlace && m.RebuildsFailed == 0 { // else they are gone already
		if no := d.mayLoseOld(m, n); no.Code == CodeErrant {
			d.endRebuild(m.ID, no.Text)
			return true
		} else if no.Code != "" {
			d.why("%s is to be rebuilt: %s", m.Name, no.Text)
			return false
		}
	}
	cands := d.donors(m, w)
	switch {
	case len(d.s.Rebuilds) >= d.s.Policy.rebuildCap():
		d.why("%s is to be rebuilt; it waits for the end of another rebuild", m.Name)
	case d.gives(m.ID):
		d.why("%s is to be rebuilt and is being copied from", m.Name)
	case len(cands) == 0 || cands[0].no.Code != "":
		d.why("%s is to be rebuilt: nobody can be copied from", m.Name)
		if len(cands) > 0 {
			d.why("%s is to be rebuilt: %s", m.Name, worst(cands).Text)
		}
	case !d.harmless(m.ID): // nobody asks who acknowledges while its data are replaced
		d.why("%s is to be rebuilt and may acknowledge", m.Name)
		d.keep(Order{To: m.ID, Op: OpExclude})
		return true
	default:
		why := "asked for"
		if w.By != "" {
			why += " by " + w.By
		}
		d.commit(Command{Kind: CmdRebuild, Rebuild: &Rebuild{Recipient: m.ID, Donor: cands[0].m.ID, Why: why, Wish: w.Index, Copying: w.Copying}})
		return true
	}
	return false
}

// astray gives the proven errant transactions of a donor that a person has named.
// Nobody is copied from it before it was copied anew itself.
func (d *decider) astray(donor NodeID) gtid.Set {
	n := d.v.Node(donor)
	if _, leased := d.s.Rebuild(donor); leased || donor == "" || donor == d.s.Primary || !d.fresh(n) || n.Report.Mysqld != MysqldRunning {
		return gtid.Set{}
	}
	return d.provenErrant(d.v.Node(d.s.Primary), n)
}

// donor is the best one for a rebuild that nobody asked for.
func (d *decider) donor(m Member) (NodeID, bool) {
	cands := d.donors(m, Wish{Recipient: m.ID})
	if len(cands) == 0 || cands[0].no.Code != "" {
		return "", false
	}
	return cands[0].m.ID, true
}

// fill gives a member that has nothing a copy of what the others have. It says whether
// the node is to be left alone otherwise: not where there is too little to copy, or
// nobody who can be copied from. It replicates from the first binary log then, as far
// as there is one.
func (d *decider) fill(p, n *NodeView, m Member) bool {
	r := n.Report
	_, acker := d.s.Acker(m.ID)
	if acker || !r.Blank || !r.Position().IsEmpty() || r.ClusterOnDisk != "" || p.Report.DataSize < fillFrom || m.RebuildsFailed >= maxRebuilds {
		return false
	}
	if _, ok := d.s.Wish(m.ID); ok { // a person has said from whom, who may have to wait
		return false
	}
	cands := d.donors(m, Wish{Recipient: m.ID})
	fit := len(cands) > 0 && cands[0].no.Code == ""
	busy := slices.ContainsFunc(cands, func(c donor) bool { return c.no.Code == CodeDonorBusy })
	switch {
	case !fit && !busy:
		return false
	case d.gives(m.ID): // of what it had
		d.why("%s is empty and is being copied from", m.Name)
	case busy && (!fit || cands[0].m.ID == d.s.Primary), len(d.s.Rebuilds) >= d.s.Policy.rebuildCap():
		d.why("%s is empty and waits for a donor", m.Name)
	case !d.harmless(m.ID): // it gets no account before
		d.why("%s is empty and may acknowledge", m.Name)
		d.keep(Order{To: m.ID, Op: OpExclude})
	case !slices.Contains(p.Report.Accounts, m.ReplicationUser()):
		d.why("%s is empty and waits for its account", m.Name)
	default:
		d.commit(Command{Kind: CmdRebuild, Rebuild: &Rebuild{Recipient: m.ID, Donor: cands[0].m.ID, Why: "it is empty"}})
	}
	return true
}

// rebuild carries out a lease until the recipient says how it ended.
func (d *decider) rebuild(lease Rebuild, n *NodeView, m Member) {
	if !d.fresh(n) {
		if n.Age > rebuildSilence {
			d.endRebuild(lease.Recipient, "its agent is silent")
		}
		return
	}
	d.why("%s is being rebuilt from %s", m.Name, d.name(lease.Donor))
	if rb := n.Report.Rebuild; rb != nil && rb.Index == lease.Index {
		lost := d.donorLost(lease)
		switch {
		case rb.Err != "":
			d.endRebuild(lease.Recipient, rb.Err)
		case rb.Done:
			d.endRebuild(lease.Recipient, "")
		case rb.Phase == CopyReady: // by order only: a copy whose lease has ended is put in place of nothing
			d.keep(Order{To: m.ID, Op: OpSwap, Lease: lease.Index, KeepOld: d.s.Policy.RebuildKeepOld})
			d.failedOrder(lease, n, OpSwap)
		case rb.Phase == CopyRunning && lost != "":
			d.endRebuild(lease.Recipient, lost)
		default:
			d.why("%s is being rebuilt from %s: %s", m.Name, d.name(lease.Donor), rb.Phase)
			d.failedOrder(lease, n, OpSwap)
		}
		return
	}
	donor, _ := d.s.Member(lease.Donor)
	floor := d.s.Floor
	if last := n.last(OpRebuild); last != nil && last.Order.Lease == lease.Index {
		floor = last.Order.Keep // that of a later epoch may be beyond the copy
	}
	d.keep(Order{To: m.ID, Op: OpRebuild, Lease: lease.Index, Copying: lease.Copying, Keep: floor, Source: &Source{Node: donor.ID, Host: donor.MySQLHost,
		Port: donor.MySQLPort, UUID: donor.ServerUUID, User: m.ReplicationUser(), Password: m.ReplicationPassword}})
	d.failedOrder(lease, n, OpRebuild)
}

// CopyRunning is the phase in which data come from the donor.
const CopyRunning = "copy"

func (d *decider) endRebuild(recipient NodeID, why string) {
	d.commit(Command{Kind: CmdRebuildEnd, Node: recipient, Why: why})
}

// failedOrder ends a lease that the recipient's agent will not carry out.
func (d *decider) failedOrder(lease Rebuild, n *NodeView, op Op) {
	o := n.last(op)
	if o != nil && o.Order.Lease == lease.Index && o.Order.Token.Epoch == d.s.Epoch && o.Answer != nil && o.Answer.Code == CodeFailed {
		d.endRebuild(lease.Recipient, o.Answer.Err)
	}
}

// donorLost says that no more will come from the donor: its mysqld has ended, or
// nothing is heard of its host. One that was started again knows nothing of the copy.
func (d *decider) donorLost(lease Rebuild) string {
	n := d.v.Node(lease.Donor)
	switch {
	case d.fresh(n) && n.Report.Mysqld == MysqldDown:
		return "mysqld of " + d.name(lease.Donor) + ", which it was copied from, is gone"
	case n.Age > donorSilence:
		return d.name(lease.Donor) + ", which it was copied from, is silent"
	}
	return ""
}

// endStray ends a copy that goes on under a lease that has ended. It says whether
// the node is to be left alone until that is done.
func (d *decider) endStray(n *NodeView, m Member) bool {
	if !d.fresh(n) || !n.Report.Rebuild.underWay() {
		return false
	}
	d.why("the rebuild of %s is being ended", m.Name)
	d.keep(Order{To: m.ID, Op: OpEndRebuild, Lease: n.Report.Rebuild.Index})
	return true
}
