package agent

import (
	"log/slog"
	"net"
	"syscall"

	"ha/agent/node"
	"ha/agent/wire"
	"ha/mysqlctl"
)

// outside is what an agent uses of its host beside files: tests have other ones.
type outside struct {
	network wire.Network                            // nil: the host's
	clock   node.Clock                              // nil: the host's
	local   func(path string) (net.Listener, error) // a socket for this host alone
	mysqld  func(mysqlctl.Config) node.Mysqld
}

func host(log *slog.Logger) outside {
	return outside{local: listenUnix, mysqld: func(c mysqlctl.Config) node.Mysqld { return mysqlctl.New(c, log) }}
}

// listenUnix makes a socket that only its owner may use.
func listenUnix(path string) (net.Listener, error) {
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}
