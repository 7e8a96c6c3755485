package sandbox

import (
	"context"
	"net/netip"
	"os"
	"strconv"

	"ha/agent/api"
)

// Add makes one more node, with a mysqld and without data, and starts its agent: the
// cluster does the rest. It returns when the agent has been started.
func (s *Sandbox) Add(ctx context.Context) (Node, error) {
	release, err := s.lock()
	if err != nil {
		return Node{}, err
	}
	defer release()
	n, err := s.next()
	if err != nil {
		return Node{}, err
	}
	for addr, udp := range map[string]bool{n.Agent: true, n.MySQL: false} {
		if err := portFree(addr, udp); err != nil {
			return Node{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return Node{}, err
	}
	s.Nodes = append(s.Nodes, n)
	if err := s.writeFiles(); err != nil {
		return Node{}, api.Failed("write the sandbox's files: %w", err)
	}
	_, err = s.startAgent(n)
	return n, err
}

// next plans the node after the last one.
func (s *Sandbox) next() (Node, error) {
	if len(s.Nodes) >= maxNodes {
		return Node{}, api.Usage("%d nodes are too many for one machine", len(s.Nodes)+1).WithHint("At most %d, witnesses included.", maxNodes)
	}
	last, err := netip.ParseAddrPort(s.Nodes[len(s.Nodes)-1].Agent)
	if err != nil {
		return Node{}, err
	}
	ip := last.Addr().Next()
	n := Node{Name: "n" + strconv.Itoa(len(s.Nodes)+1), Agent: netip.AddrPortFrom(ip, uint16(s.Port)).String(), MySQL: netip.AddrPortFrom(ip, uint16(s.MySQLPort)).String()} //nolint:gosec // ports
	if _, err := os.Stat(s.NodeDir(n.Name)); err == nil {
		return Node{}, api.Failed("%s is there already", s.NodeDir(n.Name)).WithHint("Look what it is, and remove it.")
	}
	return n, nil
}
