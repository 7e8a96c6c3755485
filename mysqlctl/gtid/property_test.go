package gtid

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is the naive set: every GTID by itself.
type model map[one]bool

type one struct {
	origin
	number uint64
}

// drawText draws a set as text, in any order and with noise, and what it means.
// Numbers are few, so that intervals touch and overlap, near 1 and near the end.
func drawText(t *rapid.T, label string) (string, model) {
	meaning := make(model)
	var text strings.Builder
	noise := rapid.SampledFrom([]string{"", "", "", " ", "\n"})
	for range rapid.IntRange(0, 4).Draw(t, label+" groups") {
		uuid := rapid.SampledFrom([]string{u1, u2, ua}).Draw(t, "uuid")
		from := origin{uuid: uuid}
		text.WriteString(noise.Draw(t, "noise") + uuid)
		for i := range rapid.IntRange(1, 6).Draw(t, "intervals") {
			if tag := rapid.SampledFrom([]string{"", "", "a", "a_", "b9"}).Draw(t, "tag"); tag != "" {
				from.tag = tag
				text.WriteString(":" + noise.Draw(t, "noise") + tag)
			}
			base := rapid.SampledFrom([]uint64{0, maxNumber - 14}).Draw(t, "base")
			first := rapid.Uint64Range(1, 14).Draw(t, "first")
			last := rapid.Uint64Range(first, min(first+5, 14)).Draw(t, "last")
			if first == last && i%2 == 0 {
				fmt.Fprintf(&text, ":%d%s", base+first, noise.Draw(t, "noise"))
			} else {
				fmt.Fprintf(&text, ":%d%s-%d", base+first, noise.Draw(t, "noise"), base+last)
			}
			for n := first; n <= last; n++ {
				meaning[one{from, base + n}] = true
			}
		}
		text.WriteString(noise.Draw(t, "noise") + ",")
	}
	return text.String(), meaning
}

func drawSet(t *rapid.T, label string) (Set, model) {
	text, meaning := drawText(t, label)
	s, err := Parse(text)
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return s, meaning
}

// check fails unless s is in canonical form and holds exactly the model's GTIDs.
func check(t *rapid.T, what string, s Set, want model) {
	t.Helper()
	got := make(model)
	for i, src := range s.sources {
		if i > 0 && compareOrigin(s.sources[i-1].origin, src.origin) >= 0 {
			t.Fatalf("%s: sources out of order: %q", what, s)
		}
		if len(src.intervals) == 0 {
			t.Fatalf("%s: source without intervals: %q", what, s)
		}
		for j, iv := range src.intervals {
			if iv.first < 1 || iv.first > iv.last || iv.last > maxNumber ||
				j > 0 && iv.first <= src.intervals[j-1].last+1 {
				t.Fatalf("%s: intervals not in canonical form: %q", what, s)
			}
			for n := iv.first; n <= iv.last; n++ {
				got[one{src.origin, n}] = true
				if !s.Has(src.uuid, src.tag, n) {
					t.Fatalf("%s: %q has no %s:%s:%d", what, s, src.uuid, src.tag, n)
				}
			}
			for _, n := range []uint64{iv.first - 1, iv.last + 1} {
				if s.Has(src.uuid, src.tag, n) != want[one{src.origin, n}] {
					t.Fatalf("%s: %q: Has %s:%s:%d", what, s, src.uuid, src.tag, n)
				}
			}
			if s.Has(src.uuid, src.tag+"x", iv.first) != want[one{origin{src.uuid, src.tag + "x"}, iv.first}] {
				t.Fatalf("%s: %q: Has another tag", what, s)
			}
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%s = %q, want %v", what, s, want)
	}
	if s.Count() != uint64(len(want)) || s.IsEmpty() != (len(want) == 0) || s.IsEmpty() != (s.sources == nil) {
		t.Fatalf("%s: %q: Count %d, IsEmpty %v, want %d", what, s, s.Count(), s.IsEmpty(), len(want))
	}
	back, err := Parse(s.String())
	if err != nil || !back.Equal(s) || back.String() != s.String() {
		t.Fatalf("%s: Parse(%q) = %q, %v", what, s, back, err)
	}
}

func filter(m model, keep func(one) bool) model {
	out := make(model)
	for g := range m {
		if keep(g) {
			out[g] = true
		}
	}
	return out
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, ma := drawSet(t, "a")
		b, mb := drawSet(t, "b")
		check(t, "a", a, ma)
		check(t, "b", b, mb)
		textA, textB := a.String(), b.String()

		union := maps.Clone(ma)
		maps.Copy(union, mb)
		check(t, "union", a.Union(b), union)
		check(t, "minus", a.Minus(b), filter(ma, func(g one) bool { return !mb[g] }))
		common := filter(ma, func(g one) bool { return mb[g] })
		check(t, "intersect", a.Intersect(b), common)
		for _, uuid := range []string{u1, u2, ua} {
			check(t, "only", a.Only(uuid), filter(ma, func(g one) bool { return g.uuid == uuid }))
		}
		uuids := make(map[string]bool)
		for g := range ma {
			uuids[g.uuid] = true
		}
		if len(a.UUIDs()) != len(uuids) {
			t.Fatalf("UUIDs of %q = %v", a, a.UUIDs())
		}
		if got, want := a.Contains(b), len(common) == len(mb); got != want {
			t.Fatalf("%q contains %q = %v", a, b, got)
		}
		if got, want := a.Equal(b), maps.Equal(ma, mb); got != want || got != (textA == textB) {
			t.Fatalf("%q equals %q = %v", a, b, got)
		}
		// A random b is rarely a subset, or nearly one: make some of each.
		part := a.Intersect(b)
		for g := range mb {
			extra := Set{[]source{{g.origin, []interval{{g.number, g.number}}}}}
			if nearly := part.Union(extra); a.Contains(nearly) != ma[g] {
				t.Fatalf("%q contains %q = %v", a, nearly, !ma[g])
			}
		}
		if !a.Contains(part) || !a.Union(b).Contains(b) || !a.Minus(part).Union(part).Equal(a) {
			t.Fatalf("laws broken for %q and %q", a, b)
		}
		if a.String() != textA || b.String() != textB {
			t.Fatalf("an operand changed: %q to %q, %q to %q", textA, a, textB, b)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", ",", u1, u1 + ":1-5:7,\n" + u2 + ":1:tag_a:1-3", " " + u1 + " : T : 9 - 10 :1",
		u1 + ":5-3", u1 + ":0", u1 + ":9223372036854775806", u1 + ":9223372036854775807", u1 + "::1", u1 + ":tag", "0-1-100",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if !s.IsEmpty() {
				t.Fatalf("Parse(%q) = %q besides %v", text, s, err)
			}
			return
		}
		canonical := s.String()
		again, err := Parse(canonical)
		if err != nil || !again.Equal(s) || again.String() != canonical {
			t.Fatalf("Parse(%q) = %q, but that parses as %q, %v", text, s, again, err)
		}
		if !s.Contains(again) || !again.Minus(s).IsEmpty() || !s.Union(again).Equal(s) || s.IsEmpty() != (s.Count() == 0) {
			t.Fatalf("laws broken for %q", s)
		}
	})
}
