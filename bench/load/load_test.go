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
