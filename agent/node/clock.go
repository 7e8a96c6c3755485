package node

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock gives the time since boot, suspend included: Go's own monotonic clock
// stands still while the machine sleeps, and a lease must not.
type Clock interface {
	Boottime() time.Duration
}

// SystemClock is CLOCK_BOOTTIME.
type SystemClock struct{}

// Boottime implements Clock.
func (SystemClock) Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // exists since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
