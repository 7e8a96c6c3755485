package wire

import (
	"net"
	"testing"
	"time"
)

// A port that its former owner still has is waited for, but not for long.
func TestListenWaitsForThePort(t *testing.T) {
	for what, taken := range map[string]func() (func() error, string){
		"tcp": func() (func() error, string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l.Close, l.Addr().String()
		},
		"udp": func() (func() error, string) {
			l, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l.Close, l.LocalAddr().String()
		},
	} {
		t.Run(what, func(t *testing.T) {
			free, addr := taken()
			began := time.Now()
			if _, _, err := (hostNetwork{}).Listen(t.Context(), addr); err == nil {
				t.Fatal("somebody else has the port")
			}
			if took := time.Since(began); took < portWait || took > 5*portWait {
				t.Errorf("given up after %v, want %v", took, portWait)
			}
			time.AfterFunc(200*time.Millisecond, func() { _ = free() })
			tcp, udp, err := hostNetwork{}.Listen(t.Context(), addr)
			if err != nil {
				t.Fatal(err)
			}
			tcp.Close()
			udp.Close()
		})
	}
}
