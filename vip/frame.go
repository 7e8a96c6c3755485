package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// The frames are those of RFC 826 and RFC 5227 (ARP) and of RFC 4861 and RFC 4862
// (neighbour discovery), made by hand: 60 bytes are not worth a dependency.
const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherLen  = 14 // of the Ethernet header

	arpRequest, arpReply = 1, 2
	arpSenderIP          = etherLen + 14 // offset in a frame

	ipv6Len       = 40 // of the IPv6 header
	nextICMPv6    = 58
	solicitation  = 135
	advertisement = 136
	naType        = etherLen + ipv6Len     // offset in a frame
	naTarget      = etherLen + ipv6Len + 8 // offset in a frame
	override      = 0x20                   // flag: replace what you know
	targetLink    = 2                      // option: link-layer address of the target
)

var (
	everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    = net.HardwareAddr{0, 0, 0, 0, 0, 0}
	allNodes  = netip.MustParseAddr("ff02::1")
)

// announcement are the frames that tell the network that addr is at mac. Of the two
// forms of a gratuitous ARP some listeners take only one.
func announcement(mac net.HardwareAddr, addr netip.Addr) [][]byte {
	if addr.Is4() {
		return [][]byte{
			arp(arpRequest, mac, addr, nobody, addr),
			arp(arpReply, mac, addr, everybody, addr),
		}
	}
	option := append([]byte{targetLink, 1}, mac...)
	return [][]byte{icmp6(mac, addr, allNodes, advertisement, override, addr, option)}
}

// question asks who has addr, without claiming it.
func question(mac net.HardwareAddr, addr netip.Addr) []byte {
	if addr.Is4() {
		return arp(arpRequest, mac, netip.IPv4Unspecified(), nobody, addr)
	}
	group := allNodes.As16() // the solicited-node multicast address
	a := addr.As16()
	group[11], group[12] = 1, 0xff
	copy(group[13:], a[13:])
	return icmp6(mac, netip.IPv6Unspecified(), netip.AddrFrom16(group), solicitation, 0, addr, nil)
}

// claimant is the link-layer address in a frame that says addr is there.
func claimant(frame []byte, addr netip.Addr) (net.HardwareAddr, bool) {
	if addr.Is4() {
		if len(frame) < etherLen+28 || [4]byte(frame[arpSenderIP:]) != addr.As4() {
			return nil, false
		}
		return net.HardwareAddr(frame[etherLen+8 : etherLen+14]), true
	}
	option := naTarget + 16
	if len(frame) < option || frame[naType] != advertisement || [16]byte(frame[naTarget:]) != addr.As16() {
		return nil, false
	}
	if len(frame) >= option+8 && frame[option] == targetLink {
		return net.HardwareAddr(frame[option+2 : option+8]), true
	}
	return net.HardwareAddr(frame[6:12]), true
}

func ether(to, from net.HardwareAddr, kind uint16) []byte {
	b := append(append(make([]byte, 0, 128), to...), from...)
	return binary.BigEndian.AppendUint16(b, kind)
}

// arp is always sent to everybody.
func arp(op uint16, from net.HardwareAddr, sender netip.Addr, to net.HardwareAddr, target netip.Addr) []byte {
	b := ether(everybody, from, etherARP)
	b = append(b, 0, 1, 8, 0, 6, 4) // Ethernet, IPv4, lengths of their addresses
	b = binary.BigEndian.AppendUint16(b, op)
	b = append(append(b, from...), sender.AsSlice()...)
	return append(append(b, to...), target.AsSlice()...)
}

// icmp6 is a neighbour message to a multicast address.
func icmp6(mac net.HardwareAddr, from, to netip.Addr, kind, flags byte, target netip.Addr, option []byte) []byte {
	group := to.As16()
	b := ether(net.HardwareAddr{0x33, 0x33, group[12], group[13], group[14], group[15]}, mac, etherIPv6)
	body := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	body = append(body, option...)
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, nextICMPv6, 255)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(body[2:], checksum(from, to, body))
	return append(b, body...)
}

// checksum is that of ICMPv6, over a pseudo header and the message.
func checksum(from, to netip.Addr, body []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, nextICMPv6)
	sum := uint32(0)
	for _, part := range [][]byte{pseudo, body} { // both of even length
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
