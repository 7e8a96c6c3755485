package agent

import (
	"net/netip"

	"ha/agent/api"
	"ha/vip"
)

// VIPConfig is one virtual IP.
type VIPConfig struct {
	Address string `toml:"address"`
	// Interface that it goes on; default: the one whose network holds it, else
	// that of the route to it.
	Interface string `toml:"interface"`
	// Role is primary (the default), or reader: on one healthy replica.
	Role string `toml:"role"`
}

func (c *Config) checkVIPs(f *faults) {
	if c.Witness && len(c.VIPs) > 0 {
		f.add("vip", "a witness has no mysqld that a virtual IP could lead to: leave it away")
		return
	}
	own := map[string]string{hostOf(c.Listen): "listen", hostOf(c.Advertise): "advertise", c.MySQL.Host: "mysql.host"}
	for _, a := range c.Join {
		own[hostOf(a)] = "join"
	}
	seen := make(map[string]bool)
	for _, v := range c.VIPs {
		a, err := vip.ParseAddr(v.Address)
		if err != nil {
			f.add("vip.address", "%s", err)
			continue
		}
		if key, ok := ownAddress(own, a); ok {
			f.add("vip.address", "%s is a host's own address (%s): a virtual IP moves, so choose one that no host has", a, key)
		}
		if seen[a.String()] {
			f.add("vip.address", "%s is there twice: leave one away", a)
		}
		seen[a.String()] = true
		if v.Role != string(vip.Primary) && v.Role != string(vip.Reader) {
			f.add("vip.role", "%q is unknown: use primary or reader", v.Role)
		}
	}
}

// ownAddress tells which key names an address, however that is written.
func ownAddress(own map[string]string, a netip.Addr) (string, bool) {
	for host, key := range own {
		if b, err := netip.ParseAddr(host); err == nil && b.Unmap() == a {
			return key, true
		}
	}
	return "", false
}

// addresses are the virtual IPs of a configuration that was checked.
func (c *Config) addresses() []vip.Address {
	var out []vip.Address
	for _, v := range c.VIPs {
		if a, err := vip.ParseAddr(v.Address); err == nil {
			out = append(out, vip.Address{Addr: a, Interface: v.Interface, Role: vip.Role(v.Role)})
		}
	}
	return out
}

// vipError gives why the virtual IPs cannot be held on this host an exit code. An
// interface may be there later in a host's start: an agent that ended with the code
// of a wrong configuration would not be started again.
func vipError(err *vip.Error) error {
	code := api.ExitFailed
	if err.Code == vip.CodeInUse {
		code = api.ExitRefused
	}
	e := api.Errorf(code, "virtual IP: %w", err)
	e.Word = err.Code
	if err.Hint != "" {
		e = e.WithHint("%s", err.Hint)
	}
	return e
}
