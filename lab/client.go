package lab

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/vishvananda/netns"

	"ha/agent/api"
	"ha/agent/sandbox"
	"ha/agent/wire"
)

// Client is a machine with nothing on it but connections of this process, and an
// ARP cache.
type Client struct {
	Name string
	Addr string
	ns   netns.NsHandle
}

func (l *Lab) addClient(name string, i int) error {
	ns, err := newNS()
	if err != nil {
		return err
	}
	c := &Client{Name: name, Addr: fmt.Sprintf("%s%d", network, 200+i), ns: ns}
	l.Clients = append(l.Clients, c)
	return l.net.plug(cable(name), ns, macOf(200+i), c.Addr+"/24")
}

// Enter is a command that gives a shell on the client.
func (c *Client) Enter() string { return enterNS(c.ns) }

func enterNS(ns netns.NsHandle) string {
	return fmt.Sprintf("nsenter --net=/proc/%d/fd/%d bash", os.Getpid(), int(ns))
}

// EnterSwitch is a command that gives a shell where the cables end.
func (l *Lab) EnterSwitch() string { return enterNS(l.net.ns) }

// Dial connects from the client.
func (c *Client) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = in(c.ns, func() error {
		conn, err = (&net.Dialer{KeepAlive: -1}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// The networks of DSNs: of a client, through the network; on a host, through its
// socket. The lab's number is in them.
func (l *Lab) register() {
	for _, c := range l.Clients {
		mysql.RegisterDialContext(l.dialName(c.Name), func(ctx context.Context, addr string) (net.Conn, error) { return c.Dial(ctx, "tcp", addr) })
	}
	for _, h := range l.Hosts {
		mysql.RegisterDialContext(l.dialName(h.Name), h.dial)
	}
}

func (l *Lab) unregister() {
	for _, c := range l.Clients {
		mysql.DeregisterDialContext(l.dialName(c.Name))
	}
	for _, h := range l.Hosts {
		mysql.DeregisterDialContext(l.dialName(h.Name))
	}
}

func (l *Lab) dialName(name string) string { return fmt.Sprintf("lab%d-%s", l.number, name) }

// DSN is how the application connects from a client to an address. An answer is
// waited for that long; 0: for ever.
func (l *Lab) DSN(client, addr string, wait time.Duration) string {
	return fmt.Sprintf("%s:%s@%s(%s:3306)/%s?timeout=%s&readTimeout=%s", sandbox.AppUser, sandbox.AppPassword, l.dialName(client), addr, sandbox.AppSchema, min(wait, time.Second), wait)
}

// LocalDSN is how the application connects on the host itself.
func (l *Lab) LocalDSN(host string) string {
	return fmt.Sprintf("%s:%s@%s(tcp)/%s?timeout=2s", sandbox.AppUser, sandbox.AppPassword, l.dialName(host), sandbox.AppSchema)
}

// Root connects to a host's server as its root, on the host. The caller closes it.
func (l *Lab) Root(host string) (*sql.DB, error) {
	return sql.Open("mysql", fmt.Sprintf("root@%s(socket)/?timeout=2s", l.dialName(host)))
}

// dial connects on the host: through the socket, or (the driver gives passwords to
// real sockets only) to its address.
func (h *Host) dial(ctx context.Context, how string) (conn net.Conn, err error) {
	if how == "socket" {
		return (&net.Dialer{}).DialContext(ctx, "unix", h.Path(MySQLDisk+"/mysqld.sock"))
	}
	ns, err := h.netns()
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = in(ns, func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", h.Addr+":3306")
		return err
	})
	return conn, err
}

// agents asks them from a client.
func (l *Lab) agents(c *Client) (*api.Client, error) {
	id, err := wire.NewIdentity(wire.DeriveKeys(l.secret), "client")
	if err != nil {
		return nil, err
	}
	client := &api.Client{HTTP: wire.HTTPClient(id)}
	client.HTTP.Transport.(*http.Transport).DialContext = c.Dial
	for _, h := range l.Hosts {
		client.Addrs = append(client.Addrs, h.Addr+":8801")
	}
	return client, nil
}

// Status is the cluster's as agents tell a client, whichever answers first.
func (l *Lab) Status(ctx context.Context) (api.Status, error) {
	var st api.Status
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := l.api.Get(ctx, api.PathStatus, &st)
	return st, err
}

// Self is what one host's agent knows.
func (l *Lab) Self(ctx context.Context, host string) (api.Self, error) {
	var self api.Self
	h, err := l.Host(host)
	if err != nil {
		return self, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	one := &api.Client{HTTP: l.api.HTTP, Addrs: []string{h.Addr + ":8801"}}
	_, err = one.Get(ctx, api.PathSelf, &self)
	return self, err
}

// missing says what a healthy lab has and this one has not yet.
func (l *Lab) missing(st api.Status) string {
	var silent, detached []string
	data, voters := 0, 0
	byName := map[string]api.NodeStatus{}
	for _, n := range st.Nodes {
		byName[n.Name] = n
		if n.Raft == "leader" || n.Raft == "voter" {
			voters++
		}
	}
	for _, h := range l.Hosts {
		n := byName[h.Name]
		if n.Agent != "up" {
			silent = append(silent, h.Name)
		}
		if !h.Witness {
			data++
			if h.Name != st.Primary && (!n.Acker || !n.Attached) {
				detached = append(detached, h.Name)
			}
		}
	}
	want := min(len(l.Hosts), 5)
	want -= (want + 1) % 2 // an odd number
	switch {
	case len(silent) > 0:
		return "no agent on " + strings.Join(silent, " ")
	case st.Primary == "":
		return "no primary"
	case len(detached) > 0:
		return strings.Join(detached, " ") + " do not acknowledge"
	case st.Acks != data/2:
		return fmt.Sprintf("%d acks", st.Acks)
	case voters < want:
		return fmt.Sprintf("%d of %d voters", voters, want)
	case st.Health != api.HealthOK:
		return fmt.Sprint("health is ", st.Health, " ", st.Issues)
	}
	return ""
}

// AwaitHealthy waits until everybody is there, replicates and acknowledges.
func (l *Lab) AwaitHealthy(ctx context.Context, bound time.Duration) (api.Status, error) {
	var st api.Status
	err := Eventually(bound, func() error {
		var err error
		if err = ctx.Err(); err == nil {
			st, err = l.Status(ctx)
		}
		if err == nil {
			if m := l.missing(st); m != "" {
				err = fmt.Errorf("%s; doing %q; %v", m, st.Doing, st.Issues)
			}
		}
		return err
	})
	return st, err
}
