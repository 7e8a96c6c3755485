package load

import (
	"testing"
	"time"
)

func at(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }

func TestGap(t *testing.T) {
	var acks []Ack
	for _, ms := range []int{0, 10, 500, 510, 700} {
		acks = append(acks, Ack{At: at(ms)})
	}
	for _, tt := range []struct{ from, to, want int }{
		{0, 1000, 490}, {505, 1000, 190}, {0, 5, 10}, {100, 200, 490}, {800, 900, 0},
	} {
		if got := Gap(acks, at(tt.from), at(tt.to)); got != time.Duration(tt.want)*time.Millisecond {
			t.Errorf("%d to %d: %s, want %d ms", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestDouble(t *testing.T) {
	ack := func(server string, seq int64, ms int) Ack { return Ack{Row{1, seq}, server, at(ms)} }
	firsts := []Ack{ack("n2", 3, 100), ack("n1", 6, 200)}
	held := map[Row]bool{{1, 1}: true, {1, 3}: true, {1, 4}: true, {1, 6}: true}
	for _, tt := range []struct {
		name string
		acks []Ack
		want int
	}{
		{"before the change", []Ack{ack("n1", 1, 10), ack("n1", 2, 90), ack("n2", 3, 100)}, 0},
		{"late, and held", []Ack{ack("n1", 1, 10), ack("n2", 3, 100), ack("n1", 4, 101)}, 0},
		{"late, and lost", []Ack{ack("n1", 1, 10), ack("n2", 3, 100), ack("n1", 5, 101)}, 1},
		{"primary again", []Ack{ack("n2", 3, 100), ack("n1", 6, 200), ack("n1", 7, 210)}, 0},
		{"and the other one", []Ack{ack("n2", 3, 100), ack("n1", 6, 200), ack("n2", 7, 210)}, 1},
	} {
		if got := double(tt.acks, firsts, held); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}
