package vip

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Connections to an address that is taken off are ended before: nothing that a server
// says to its clients leaves the host any more then, and a client that waits for an
// answer would wait for ever. The kernel sends the resets.

const (
	// endMost is what that may take: the address goes then in any case.
	endMost = 100 * time.Millisecond
	// endBatch is how many are ended with one call.
	endBatch = 128

	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	sockDestroy      = 21 // SOCK_DESTROY
	diagID           = 4  // offset of the connection in inet_diag_msg
	diagIDLen        = 48
	diagSource       = diagID + 4 // offset of the local address
	diagAny          = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_SYN_RECV | 1<<unix.BPF_TCP_FIN_WAIT1 |
		1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING // the states; not those who listen
)

// endSessions ends the TCP connections to an address of this host, and says how many
// they were. What the kernel does not let be done is left.
func endSessions(addr netip.Addr) (n int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, os.NewSyscallError("open diag socket", err)
	}
	defer unix.Close(fd)
	end := time.Now().Add(endMost)
	limit := unix.NsecToTimeval(endMost.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return 0, os.NewSyscallError("diag socket", err)
	}
	families := []byte{unix.AF_INET6}
	if addr.Is4() { // a server that listens to both has them all as IPv6
		families = append(families, unix.AF_INET)
	}
	for _, family := range families {
		ids, lerr := sessions(fd, family, addr, end)
		if lerr != nil {
			err = lerr
		}
		var batch []byte
		for i, id := range ids {
			batch = append(batch, diagRequest(sockDestroy, unix.NLM_F_REQUEST, family, 0, id)...)
			if (i+1)%endBatch != 0 && i+1 < len(ids) {
				continue
			}
			if time.Now().After(end) {
				return n, os.ErrDeadlineExceeded
			}
			if serr := unix.Send(fd, batch, 0); serr != nil {
				return n, os.NewSyscallError("end connections", serr)
			}
			n += min(endBatch, i%endBatch+1)
			batch = batch[:0]
		}
	}
	return n, err
}

// sessions lists connections to an address as the kernel names them.
func sessions(fd int, family byte, addr netip.Addr, end time.Time) (ids [][]byte, err error) {
	request := diagRequest(sockDiagByFamily, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, family, diagAny, make([]byte, diagIDLen))
	if err := unix.Send(fd, request, 0); err != nil {
		return nil, os.NewSyscallError("ask for connections", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == nil && time.Now().After(end) {
			err = unix.ETIME
		}
		if err != nil {
			return ids, os.NewSyscallError("read connections", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return ids, os.NewSyscallError("read connections", err)
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE:
				return ids, nil
			case m.Header.Type == unix.NLMSG_ERROR: // of this, or of what was to be ended and had ended
				if len(m.Data) >= 8+4 && binary.NativeEndian.Uint16(m.Data[8:]) == sockDiagByFamily {
					return ids, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
				}
			case m.Header.Type == sockDiagByFamily && len(m.Data) >= diagID+diagIDLen && source(m.Data) == addr:
				ids = append(ids, append([]byte(nil), m.Data[diagID:diagID+diagIDLen]...))
			}
		}
	}
}

// source is the local address of a connection.
func source(msg []byte) netip.Addr {
	if msg[0] == unix.AF_INET {
		return netip.AddrFrom4([4]byte(msg[diagSource:]))
	}
	return netip.AddrFrom16([16]byte(msg[diagSource:])).Unmap()
}

// diagRequest is a message to the kernel about TCP connections.
func diagRequest(kind, flags uint16, family byte, states uint32, id []byte) []byte {
	b := make([]byte, 0, unix.SizeofNlMsghdr+8+diagIDLen)
	b = binary.NativeEndian.AppendUint32(b, uint32(cap(b)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, make([]byte, 8)...) // sequence number and sender
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, states)
	return append(b, id...)
}
