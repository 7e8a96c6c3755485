package gtid

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

const (
	u1 = "11111111-1111-1111-1111-111111111111"
	u2 = "22222222-2222-2222-2222-222222222222"
	ua = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
)

func TestParse(t *testing.T) {
	tag32 := "_" + strings.Repeat("z", 31)
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"spaces only", " \n\t", ""},
		{"commas only", " , ,\n", ""},
		{"one", u1 + ":1", u1 + ":1"},
		{"as MySQL prints it", u1 + ":1-5:7,\n" + u2 + ":1", u1 + ":1-5:7," + u2 + ":1"},
		{"spaces everywhere", " " + u1 + " : 1 - 5 : 7 : t : 3 , " + u2 + "\n:\t1 ", u1 + ":1-5:7:t:3," + u2 + ":1"},
		{"empty part between commas", u1 + ":1,," + u2 + ":1,", u1 + ":1," + u2 + ":1"},
		{"upper case", strings.ToUpper(ua) + ":1:TAG_A:2", ua + ":1:tag_a:2"},
		{"unsorted uuids", ua + ":1," + u2 + ":1," + u1 + ":1", u1 + ":1," + u2 + ":1," + ua + ":1"},
		{"unordered", u1 + ":9:1-2:5", u1 + ":1-2:5:9"},
		{"overlapping", u1 + ":1-5:3-9:4", u1 + ":1-9"},
		{"adjacent", u1 + ":6-9:1-5:10", u1 + ":1-10"},
		{"repeated uuid", u1 + ":1," + u2 + ":1," + u1 + ":2", u1 + ":1-2," + u2 + ":1"},
		{"one-number interval", u1 + ":5-5", u1 + ":5"},
		{"tag only", u1 + ":t:1-3", u1 + ":t:1-3"},
		{"tags sorted, untagged first", u1 + ":b:1:a:2," + u1 + ":3", u1 + ":3:a:2:b:1"},
		{"order _ and digits", u1 + ":a_:1:a0:1:ab:1:a:1:_:1", u1 + ":_:1:a:1:a0:1:a_:1:ab:1"},
		{"same tag twice", u1 + ":a:1:b:1:A:2", u1 + ":a:1-2:b:1"},
		{"tag like hexadecimal", u1 + ":1:a5:5", u1 + ":1:a5:5"},
		{"longest tag", u1 + ":" + tag32 + ":1", u1 + ":" + tag32 + ":1"},
		{"greatest number", u1 + ":9223372036854775806", u1 + ":9223372036854775806"},
		{"everything", u1 + ":1-9223372036854775806", u1 + ":1-9223372036854775806"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.in)
			if err != nil || got.String() != c.want {
				t.Errorf("Parse(%q) = %q, %v; want %q", c.in, got, err, c.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"zero", u1 + ":0", `"0"`},
		{"zero start", u1 + ":1:0-5", `"0-5"`},
		{"reversed", u1 + ":5-3", `"5-3" of uuid ` + u1 + ": the interval ends before it starts"},
		{"no uuid", "1-5", `"1-5" is not a server uuid`},
		{"no uuid, colon", ":1-5", `"" is not a server uuid`},
		{"short uuid", u1[1:] + ":1", `is not a server uuid`},
		{"uuid without dashes", strings.ReplaceAll(u1, "-", "") + ":1", `is not a server uuid`},
		{"uuid not hexadecimal", "g" + u1[1:] + ":1", `is not a server uuid`},
		{"MariaDB", "0-1-100", `"0-1-100" is not a server uuid`},
		{"plus", "+" + u1 + ":1", `is not a server uuid`},
		{"uuid alone", u1, "no intervals after uuid"},
		{"uuid and colon", u1 + ":", `"" of uuid`},
		{"tag alone", u1 + ":tag", `no intervals after tag "tag"`},
		{"tag then tag", u1 + ":1:a:b:1", `no intervals after tag "a"`},
		{"tag at the end", u1 + ":1:a:1:b", `no intervals after tag "b"`},
		{"two colons", u1 + "::1", `"" of uuid`},
		{"garbage", u1 + ":1 x", `"1 x"`},
		{"garbage after tag", u1 + ":tag x:1", `"tag x" of uuid ` + u1 + " is not a tag"},
		{"tag with dash", u1 + ":tag-a:1", "is not a tag"},
		{"tag too long", u1 + ":" + strings.Repeat("z", 33) + ":1", "is not a tag"},
		{"tag starts with digit", u1 + ":1a:1", `"1a"`},
		{"tag not ASCII", u1 + ":é:1", "é"},
		{"two ranges", u1 + ":1-2-3", `"1-2-3"`},
		{"open range", u1 + ":1-", `"1-"`},
		{"no start", u1 + ":-5", `"-5"`},
		{"sign", u1 + ":+5", `"+5"`},
		{"octal", u1 + ":010", `"010"`},
		{"hexadecimal", u1 + ":0x10", `"0x10"`},
		{"underscore", u1 + ":1_0", `"1_0"`},
		{"too great", u1 + ":9223372036854775807", "greatest GTID number is 9223372036854775806"},
		{"far too great", u1 + ":1-99999999999999999999999", "greatest GTID number"},
		{"no comma", u1 + ":1 " + u2 + ":1", `"1 ` + u2},
		{"NUL", u1 + ":1\x00", `"1\x00"`},
		{"second part", u1 + ":1," + u2 + ":0", u2},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Parse(c.in)
			if err == nil {
				t.Fatalf("Parse(%q) = %q, want an error", c.in, got)
			}
			if !strings.HasPrefix(err.Error(), "gtid: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Parse(%q): %q does not mention %q", c.in, err, c.want)
			}
			if !got.IsEmpty() {
				t.Errorf("Parse(%q) = %q besides the error", c.in, got)
			}
		})
	}
	if _, err := Parse(strings.Repeat("x", 1<<20)); err == nil || len(err.Error()) > 200 {
		t.Errorf("a long garbage part is not shortened in the error")
	}
}

func TestMustParsePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("MustParse accepted garbage")
		}
	}()
	MustParse("x")
}

func TestOperations(t *testing.T) {
	for _, c := range []struct{ a, b, union, minus, intersect string }{
		{"", "", "", "", ""},
		{u1 + ":1-5", "", u1 + ":1-5", u1 + ":1-5", ""},
		{"", u1 + ":1-5", u1 + ":1-5", "", ""},
		{u1 + ":1-5", u1 + ":1-5", u1 + ":1-5", "", u1 + ":1-5"},
		{u1 + ":1-5", u1 + ":6-9", u1 + ":1-9", u1 + ":1-5", ""},
		{u1 + ":1-9", u1 + ":3-4:6", u1 + ":1-9", u1 + ":1-2:5:7-9", u1 + ":3-4:6"},
		{u1 + ":1-3:5-7:9-11", u1 + ":2-10", u1 + ":1-11", u1 + ":1:11", u1 + ":2-3:5-7:9-10"},
		{u1 + ":1-5", u2 + ":1-5", u1 + ":1-5," + u2 + ":1-5", u1 + ":1-5", ""},
		{u1 + ":1-5", u1 + ":t:1-5", u1 + ":1-5:t:1-5", u1 + ":1-5", ""},
		{u1 + ":1:t:1-5", u1 + ":t:3", u1 + ":1:t:1-5", u1 + ":1:t:1-2:4-5", u1 + ":t:3"},
		{u1 + ":1-9223372036854775806", u1 + ":9223372036854775806", u1 + ":1-9223372036854775806",
			u1 + ":1-9223372036854775805", u1 + ":9223372036854775806"},
	} {
		a, b := MustParse(c.a), MustParse(c.b)
		for _, op := range []struct {
			name string
			got  Set
			want string
		}{
			{"Union", a.Union(b), c.union},
			{"Minus", a.Minus(b), c.minus},
			{"Intersect", a.Intersect(b), c.intersect},
		} {
			if op.got.String() != op.want || !op.got.Equal(MustParse(op.want)) || op.got.IsEmpty() != (op.want == "") {
				t.Errorf("%q %s %q = %q, want %q", c.a, op.name, c.b, op.got, op.want)
			}
		}
		if got, want := a.Contains(b), c.intersect == c.b; got != want {
			t.Errorf("%q Contains %q = %v", c.a, c.b, got)
		}
		if got, want := a.Equal(b), c.a == c.b; got != want {
			t.Errorf("%q Equal %q = %v", c.a, c.b, got)
		}
	}
}

func TestCountUUIDsOnly(t *testing.T) {
	s := MustParse(u2 + ":1-5:7:t:1-3," + u1 + ":x:1," + ua + ":9")
	if got := s.Count(); got != 11 {
		t.Errorf("Count = %d", got)
	}
	if got := fmt.Sprint(s.UUIDs()); got != fmt.Sprint([]string{u1, u2, ua}) {
		t.Errorf("UUIDs = %s", got)
	}
	for uuid, want := range map[string]string{
		u2: u2 + ":1-5:7:t:1-3", u1: u1 + ":x:1", strings.ToUpper(ua): ua + ":9", "x": "", "": "",
	} {
		if got := s.Only(uuid).String(); got != want {
			t.Errorf("Only(%q) = %q, want %q", uuid, got, want)
		}
	}
	huge := MustParse(u1 + ":1-9223372036854775806:t:1-9223372036854775806")
	if got := huge.Count(); got != math.MaxUint64-3 {
		t.Errorf("Count = %d", got)
	}
	if got := huge.Union(MustParse(u2 + ":1-4")).Count(); got != math.MaxUint64 {
		t.Errorf("Count = %d, want it saturated", got)
	}
	var zero Set
	if !zero.IsEmpty() || zero.Count() != 0 || zero.UUIDs() != nil || zero.String() != "" {
		t.Error("the zero value is not the empty set")
	}
}

func TestJSON(t *testing.T) {
	in := map[string]Set{"a": MustParse(u1 + ":1-5:t:1"), "b": {}}
	text, err := json.Marshal(in)
	if want := `{"a":"` + u1 + `:1-5:t:1","b":""}`; err != nil || string(text) != want {
		t.Fatalf("Marshal = %s, %v; want %s", text, err, want)
	}
	var out map[string]Set
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if len(out) != 2 || !out["a"].Equal(in["a"]) || !out["b"].IsEmpty() {
		t.Errorf("Unmarshal = %v", out)
	}
	s := in["a"]
	if err := s.UnmarshalText([]byte("x")); err == nil || !s.Equal(in["a"]) {
		t.Errorf("UnmarshalText of garbage: %v, set is %q", err, s)
	}
}

// many returns n intervals, two numbers apart, from start.
func many(n, start int) Set {
	var b strings.Builder
	b.WriteString(u1)
	for i := range n {
		fmt.Fprintf(&b, ":%d-%d", start+4*i, start+4*i+1)
	}
	return MustParse(b.String())
}

func TestManyIntervalsAreFast(t *testing.T) {
	a, b := many(100_000, 1), many(100_000, 3)
	start := time.Now()
	all := a.Union(b)
	rest := all.Minus(b)
	// Linear takes about a millisecond, quadratic many seconds.
	if took := time.Since(start); took > time.Second {
		t.Errorf("union and minus of 100000 intervals took %v", took)
	}
	if all.String() != u1+":1-400000" || !rest.Equal(a) || !all.Contains(a) {
		t.Error("wrong result")
	}
}

func BenchmarkUnion100k(b *testing.B) {
	x, y := many(100_000, 1), many(100_000, 2)
	for b.Loop() {
		x.Union(y)
	}
}

func BenchmarkParse100k(b *testing.B) {
	text := many(100_000, 1).String()
	for b.Loop() {
		MustParse(text)
	}
}
