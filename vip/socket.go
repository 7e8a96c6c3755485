package vip

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// socket sends frames on one link and hears those that claim one address there. The
// kernel filters the rest out: an idle agent is not woken by other hosts' traffic.
type socket struct{ fd int }

func openSocket(index int, addr netip.Addr) (*socket, error) {
	// Protocol 0 hears nothing until it is bound, so that nothing comes unfiltered.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open packet socket", err)
	}
	program := claims(addr)
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	kind := uint16(etherARP)
	if addr.Is6() {
		kind = etherIPv6
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(kind), Ifindex: index})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("prepare packet socket", err)
	}
	return &socket{fd}, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

func (s *socket) send(frame []byte) error {
	if _, err := unix.Write(s.fd, frame); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// claimants are the link-layer addresses that have claimed addr since the last
// call. It does not wait.
func (s *socket) claimants(addr netip.Addr) []net.HardwareAddr {
	var out []net.HardwareAddr
	var frame [128]byte
	for range 64 { // a flood must not keep the caller here
		n, err := unix.Read(s.fd, frame[:])
		if err != nil {
			break // nothing there, or the link is down
		}
		if mac, ok := claimant(frame[:n], addr); ok {
			out = append(out, append(net.HardwareAddr(nil), mac...))
		}
	}
	return out
}

// claims is the BPF program that lets pass what says that addr is somewhere: ARP
// whose sender it is, or neighbour advertisements for it.
func claims(addr netip.Addr) []unix.SockFilter {
	const loadByte, loadWord = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	var program []unix.SockFilter
	want := func(load uint16, offset, value uint32) {
		program = append(program, unix.SockFilter{Code: load, K: offset},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value})
	}
	words, at := addr.AsSlice(), uint32(arpSenderIP)
	if addr.Is6() {
		want(loadByte, etherLen+6, nextICMPv6)
		want(loadByte, naType, advertisement)
		at = naTarget
	}
	for i := 0; i < len(words); i += 4 {
		want(loadWord, at+uint32(i), binary.BigEndian.Uint32(words[i:]))
	}
	n := len(program)
	for i := 1; i < n; i += 2 { // unequal: jump to the last instruction
		program[i].Jf = uint8(n - i)
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 128}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
}

// bigEndian is a number as the network has it, in a field that the kernel reads as
// it lies in memory.
func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}
