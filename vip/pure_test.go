package vip

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseAddr(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.100": "", "fd00::100": "", "2001:db8::1": "",
		"":                    "is not an IP address",
		"db1":                 "is not an IP address",
		"10.0.0":              "is not an IP address",
		"10.0.0.100/24":       `write "10.0.0.100"`,
		"fd00::1/64":          `write "fd00::1"`,
		"::ffff:10.0.0.1":     "write 10.0.0.1",
		"fd00::1%eth0":        "name the interface",
		"127.0.0.1":           "connect to",
		"::1":                 "connect to",
		"0.0.0.0":             "connect to",
		"::":                  "connect to",
		"224.0.0.1":           "connect to",
		"ff02::1":             "connect to",
		"fe80::1":             "connect to",
		"255.255.255.255":     "connect to",
		"10.0.0.100 10.0.0.1": "is not an IP address",
	} {
		_, err := ParseAddr(s)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", s, err, want)
		}
	}
}

var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 7}

func TestFrames(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.9.0.100"), netip.MustParseAddr("fd00:9::12:3456")
	other := map[netip.Addr]netip.Addr{v4: netip.MustParseAddr("10.9.0.101"), v6: netip.MustParseAddr("fd00:9::12:3457")}
	for addr, wrong := range other {
		for _, f := range announcement(testMAC, addr) {
			if mac, ok := claimant(f, addr); !ok || !bytes.Equal(mac, testMAC) {
				t.Errorf("%s: the announcement is not understood: %s %v", addr, mac, ok)
			}
			if _, ok := claimant(f, wrong); ok {
				t.Errorf("%s: taken for %s", addr, wrong)
			}
			for n := range f {
				claimant(f[:n], addr) // no panic on short ones
			}
			if run(claims(addr), f) == 0 || run(claims(wrong), f) != 0 {
				t.Errorf("%s: the filter does not tell it from %s", addr, wrong)
			}
		}
		q := question(testMAC, addr)
		if _, ok := claimant(q, addr); ok || run(claims(addr), q) != 0 {
			t.Errorf("%s: a question claims the address", addr)
		}
	}
	// The sum over a message with its checksum is zero.
	f := announcement(testMAC, v6)[0]
	if got := checksum(v6, allNodes, f[etherLen+ipv6Len:]); got != 0 {
		t.Errorf("checksum of an advertisement is off by %#x", got)
	}
	if to := net.HardwareAddr(question(testMAC, v6)[:6]); to.String() != "33:33:ff:12:34:56" {
		t.Errorf("a solicitation goes to %s", to)
	}
}

// run is as much of BPF as the filters use.
func run(program []unix.SockFilter, frame []byte) uint32 {
	var acc uint32
	for i := 0; i < len(program); i++ {
		switch in := program[i]; in.Code {
		case unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			size := 4
			if in.Code&unix.BPF_B != 0 {
				size = 1
			}
			if int(in.K)+size > len(frame) {
				return 0
			}
			acc = 0
			for _, b := range frame[in.K : int(in.K)+size] {
				acc = acc<<8 | uint32(b)
			}
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if acc == in.K {
				i += int(in.Jt)
			} else {
				i += int(in.Jf)
			}
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		}
	}
	return 0
}
