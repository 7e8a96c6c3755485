package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ha/agent/api"
)

func writeFile(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	path := writeFile(t, "ha.toml", `
name = "db1"
listen = "10.0.0.1"
join = ["10.0.0.2", "10.0.0.3:9000"]
secret_file = "secret"
data_dir = "state"
[mysql]
mysqld = "bin/mysqld"
data_dir = "/srv/mysql"
options = ["--max-connections=10"]
start_timeout = "90s"
[log]
level = "debug"
`, 0o644)
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDefaults()
	dir := filepath.Dir(path)
	for _, f := range []struct{ what, got, want string }{
		{"listen", c.Listen, "10.0.0.1:8801"},
		{"advertise", c.Advertise, "10.0.0.1:8801"},
		{"join", strings.Join(c.Join, " "), "10.0.0.2:8801 10.0.0.3:9000"},
		{"secret_file", c.SecretFile, filepath.Join(dir, "secret")},
		{"data_dir", c.DataDir, filepath.Join(dir, "state")},
		{"mysqld", c.MySQL.Mysqld, filepath.Join(dir, "bin/mysqld")},
		{"socket", c.MySQL.Socket, "/srv/mysqld.sock"},
		{"host", c.MySQL.Host, "10.0.0.1"},
	} {
		if f.got != f.want {
			t.Errorf("%s: %q, want %q", f.what, f.got, f.want)
		}
	}
	if c.MySQL.StartTimeout != 90*time.Second || c.MySQL.Port != 3306 {
		t.Errorf("%+v", c.MySQL)
	}
	again := c
	again.SetDefaults()
	if again.Listen != c.Listen || again.MySQL.Socket != c.MySQL.Socket || again.DataDir != c.DataDir {
		t.Error("SetDefaults changes something the second time")
	}
}

func TestLoadConfigErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"syntax", "name = \n", "not valid TOML"},
		{"type", "priority = \"high\"\n", "priority"},
		{"unknown key", "lisen = \"x\"\n", "unknown key lisen (did you mean listen?)"},
		{"unknown key in a table", "[mysql]\ndatadir = \"x\"\n", "unknown key mysql.datadir (did you mean mysql.data_dir?)"},
		{"key in the wrong place", "datadir = \"x\"\n", "did you mean data_dir?"},
		{"unknown key of a virtual IP", "[[vip]]\nrol = \"x\"\n", "unknown key vip.rol (did you mean vip.role?)"},
		{"unknown table", "[raft]\nheartbeat = 1\n", "unknown key raft"},
		{"several", "lisen = \"x\"\nnam = \"y\"\n", "unknown key lisen (did you mean listen?); unknown key nam (did you mean name?)"},
		{"a number as a hook", "[hooks]\non_promote = 1\n", "a hook is a list of strings"},
		{"a number in a hook", "[hooks]\non_promote = [\"a\", 1]\n", "1 in a hook is no string"},
		{"an empty hook", "[hooks]\non_demote = []\n", "an empty hook"},
		{"a blank hook", "[hooks]\non_demote = \" \"\n", "an empty hook"},
		{"unknown key of hooks", "[hooks]\non_promot = \"x\"\n", "did you mean hooks.on_promote?"},
		{"a duration", "[mysql]\nstart_timeout = \"soon\"\n", "soon"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := writeFile(t, "ha.toml", tt.text, 0o600)
			_, err := LoadConfig(path)
			if err == nil || api.ExitCode(err) != api.ExitUsage {
				t.Fatalf("%v, exit code %d", err, api.ExitCode(err))
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%q lacks %q or the path", err, tt.want)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		if _, err := LoadConfig("/nonexistent/ha.toml"); api.ExitCode(err) != api.ExitUsage {
			t.Errorf("%v", err)
		}
	})
	t.Run("a directory", func(t *testing.T) {
		if _, err := LoadConfig(t.TempDir()); api.ExitCode(err) != api.ExitUsage {
			t.Errorf("%v", err)
		}
	})
	t.Run("secret that all may read", func(t *testing.T) {
		path := writeFile(t, "ha.toml", "secret = \"0123456789abcdef\"\n", 0o644)
		if _, err := LoadConfig(path); api.ExitCode(err) != api.ExitUsage || !strings.Contains(err.Error(), "may read it") {
			t.Errorf("%v", err)
		}
	})
}

func TestLoadHooks(t *testing.T) {
	c, err := LoadConfig(writeFile(t, "ha.toml", "[hooks]\non_promote = [\"tell\", \"a b\"]\non_demote = \"tell $HA_VIP\"\n", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c.SetDefaults()
	if !slices.Equal(c.Hooks.OnPromote, Hook{"tell", "a b"}) || !slices.Equal(c.Hooks.OnDemote, Hook{"/bin/sh", "-c", "tell $HA_VIP"}) || c.Hooks.Timeout != 30*time.Second {
		t.Errorf("%+v", c.Hooks)
	}
}

func TestMentions(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("fd00::10")
	for text, want := range map[string]bool{
		"ip addr add 10.0.0.10/24 dev eth0": true, "arping -A 10.0.0.10.": true, "curl http://10.0.0.10:80/": true, "x=10.0.0.10": true,
		"10.0.0.100": false, "110.0.0.10": false, "10.0.0.1": false, "$HA_VIP": false, "": false,
		"ip -6 addr add fd00::10/64 dev eth0": true, "FD00:0:0::10": true, "http://[fd00::10]:80": true, "fd00::100": false, "fd00::1:10": false,
	} {
		if got := mentions(text, v4) || mentions(text, v6); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// valid is a configuration without faults.
func valid(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	mysqld := filepath.Join(dir, "mysqld")
	if err := os.WriteFile(mysqld, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := Config{Name: "n1", Listen: "127.0.0.1", DataDir: filepath.Join(dir, "ha"), MySQL: MySQLConfig{Mysqld: mysqld, DataDir: "/nonexistent/data"}}
	return c
}

func TestValidate(t *testing.T) {
	secret := writeFile(t, "secret", "0123456789abcdef0123\n", 0o600)
	tests := []struct {
		name   string
		change func(*Config)
		want   string // empty: no fault
	}{
		{"as it is", func(*Config) {}, ""},
		{"another address with a secret", func(c *Config) { c.Listen, c.SecretFile = "10.0.0.1", secret }, ""},
		{"joins", func(c *Config) { c.Join = []string{"127.0.0.1", "127.0.0.2"} }, ""},
		{"a witness needs no mysqld", func(c *Config) { c.Witness, c.MySQL = true, MySQLConfig{} }, ""},

		{"name", func(c *Config) { c.Name = "my node" }, "name: "},
		{"address without a secret", func(c *Config) { c.Listen = "10.0.0.1" }, "secret: missing, and 10.0.0.1:8801 is not a loopback"},
		{"a host name without a secret", func(c *Config) { c.Listen = "db1.example" }, "secret: missing"},
		{"advertises another address without a secret", func(c *Config) { c.Advertise = "10.0.0.1" }, "secret: missing"},
		{"a guessable secret", func(c *Config) { c.Secret = "secret" }, "can be guessed"},
		{"two secrets", func(c *Config) { c.Secret, c.SecretFile = "0123456789abcdef", secret }, "both set"},
		{"no such secret file", func(c *Config) { c.SecretFile = "/nonexistent/secret" }, "secret_file: /nonexistent/secret"},
		{"a secret that all may read", func(c *Config) { c.SecretFile = writeFile(t, "s", "0123456789abcdef\n", 0o644) }, "chmod 600"},
		{"an empty secret file", func(c *Config) { c.SecretFile = writeFile(t, "s", "\n", 0o600) }, "is empty"},
		{"every address", func(c *Config) { c.Listen, c.SecretFile = "0.0.0.0", secret }, "advertise: 0.0.0.0:8801 is no address"},
		{"no port", func(c *Config) { c.Listen = "127.0.0.1:x" }, "listen: \"x\" is not a port"},
		{"a bad seed", func(c *Config) { c.Join = []string{"[::1"} }, "join: \"[::1\" is not an address"},
		{"joins itself", func(c *Config) { c.Join = []string{"127.0.0.1:8801"} }, "names this agent only"},
		{"joins from loopback", func(c *Config) { c.Join, c.SecretFile = []string{"10.0.0.2"}, secret }, "cannot be reached from 10.0.0.2:8801"},
		{"founds and joins", func(c *Config) { c.Found, c.Join = true, []string{"127.0.0.2"} }, "found: "},
		{"no mysqld", func(c *Config) { c.MySQL.Mysqld = "/nonexistent/mysqld" }, "mysql.mysqld: /nonexistent/mysqld"},
		{"mysqld is no program", func(c *Config) { c.MySQL.Mysqld = secret }, "is not a program"},
		{"shared directory", func(c *Config) { c.MySQL.DataDir = c.DataDir }, "mysql.data_dir: "},
		{"socket in the data", func(c *Config) { c.MySQL.Socket = "/nonexistent/data/mysqld.sock" }, "mysql.socket: "},
		{"a long socket", func(c *Config) { c.MySQL.Socket = "/" + strings.Repeat("x", 108) }, "the kernel takes 107"},
		{"mysql port", func(c *Config) { c.MySQL.Port = 70000 }, "mysql.port: 70000"},
		{"mysql port is the agent's", func(c *Config) { c.MySQL.Port = 8801 }, "the agent's own port"},
		{"mysql everywhere", func(c *Config) { c.MySQL.Host = "0.0.0.0" }, "mysql.host: "},
		{"an option that is ours", func(c *Config) { c.MySQL.Options = []string{"--port=1"} }, "--port is set by the agent: use mysql.port"},
		{"another one", func(c *Config) { c.MySQL.Options = []string{"--loose-super_read_only=0"} }, "leave it away"},
		{"purging by the server", func(c *Config) { c.MySQL.Options = []string{"--binlog-expire-logs-auto-purge=ON"} }, "use binlog_expire_logs_seconds"},
		{"a retention", func(c *Config) { c.MySQL.Options = []string{"--binlog-expire-logs-seconds=0"} }, ""},
		{"no option", func(c *Config) { c.MySQL.Options = []string{"max_connections=1"} }, "not of the form"},
		{"no my.cnf", func(c *Config) { c.MySQL.DefaultsFile = "/nonexistent/my.cnf" }, "mysql.defaults_file: "},
		{"virtual IPs", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "10.0.0.100"}, {Address: "fd00::100", Interface: "eth0", Role: "reader"}}
		}, ""},
		{"a virtual IP with a prefix", func(c *Config) { c.VIPs = []VIPConfig{{Address: "10.0.0.100/24"}} }, "vip.address: \"10.0.0.100/24\" has a prefix length"},
		{"a virtual IP that is the host's", func(c *Config) {
			c.Listen, c.SecretFile, c.VIPs = "10.0.0.1", secret, []VIPConfig{{Address: "10.0.0.1"}}
		}, "a host's own address"},
		{"a virtual IP that is another host's", func(c *Config) {
			c.Join, c.VIPs = []string{"127.0.0.2", "10.0.0.2"}, []VIPConfig{{Address: "10.0.0.2"}}
		}, "a host's own address (join)"},
		{"a virtual IP twice", func(c *Config) { c.VIPs = []VIPConfig{{Address: "fd00::1"}, {Address: "FD00:0::1"}} }, "is there twice"},
		{"the role of a virtual IP", func(c *Config) { c.VIPs = []VIPConfig{{Address: "10.0.0.100", Role: "writer"}} }, "vip.role: \"writer\""},
		{"a witness with a virtual IP", func(c *Config) {
			c.Witness, c.MySQL, c.VIPs = true, MySQLConfig{}, []VIPConfig{{Address: "10.0.0.100"}}
		}, "vip: a witness"},
		{"hooks", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "10.0.0.10"}}
			c.Hooks.OnPromote, c.Hooks.OnDemote = Hook{"/bin/sh", "-c", "notify 10.0.0.100 $HA_VIP"}, Hook{"/bin/true"}
		}, ""},
		{"a hook that puts the address on", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "10.0.0.10"}}
			c.Hooks.OnPromote = Hook{"/bin/sh", "-c", "sudo /sbin/ip a a 10.0.0.10/16 dev eth0 && arping -c 3 -A 10.0.0.10 -I eth0"}
		}, "hooks.on_promote: names 10.0.0.10, which ha puts on"},
		{"or takes it off", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "fd00::10"}}
			c.Hooks.OnDemote = Hook{"/bin/true", "FD00:0::10/64"}
		}, "hooks.on_demote: names fd00::10"},
		{"a script that puts the address on", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "10.0.0.10"}}
			c.Hooks.OnPromote = Hook{writeFile(t, "vip.sh", "#!/bin/sh\nip a a 10.0.0.10/16 dev eth0\n", 0o700)}
		}, "hooks.on_promote: names 10.0.0.10, which ha puts on"},
		{"a script that has a use for $HA_VIP", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "10.0.0.10"}}
			c.Hooks.OnPromote = Hook{writeFile(t, "vip.sh", "#!/bin/sh\n# not: ip addr add 10.0.0.10 $HA_VIP\nnotify $HA_VIP\n", 0o700)}
		}, ""},
		{"a script that puts $HA_VIP on", func(c *Config) {
			c.VIPs = []VIPConfig{{Address: "10.0.0.10"}}
			c.Hooks.OnPromote = Hook{writeFile(t, "vip.sh", "#!/bin/sh\nfor v in $HA_VIP; do\n  ip addr replace $v/32 dev eth0\ndone\n", 0o700)}
		}, "Remove that from the hook (or its script)"},
		{"no such hook", func(c *Config) { c.Hooks.OnPromote = Hook{"/nonexistent/hook"} }, "hooks.on_promote: /nonexistent/hook cannot be run"},
		{"a hook of a witness", func(c *Config) {
			c.Witness, c.MySQL, c.Hooks.OnDemote = true, MySQLConfig{}, Hook{"/bin/true"}
		}, "hooks.on_demote: a witness"},
		{"no time for hooks", func(c *Config) { c.Hooks.Timeout = time.Millisecond }, "hooks.timeout: 1ms"},
		{"an archive", func(c *Config) { c.Archive.Dir = "/backup/binlogs" }, ""},
		{"an archive in the data", func(c *Config) { c.Archive.Dir = filepath.Join(c.MySQL.DataDir, "archive") }, "archive.dir: "},
		{"an archive around the data", func(c *Config) { c.Archive.Dir = filepath.Dir(c.MySQL.DataDir) }, "holds other things"},
		{"an archive of a witness", func(c *Config) {
			c.Witness, c.MySQL, c.Archive.Dir = true, MySQLConfig{}, "/backup/binlogs"
		}, "archive.dir: a witness"},
		{"log level", func(c *Config) { c.Log.Level = "loud" }, "log.level: "},
		{"log format", func(c *Config) { c.Log.Format = "xml" }, "log.format: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := valid(t)
			tt.change(&c)
			c.SetDefaults()
			err := c.Validate()
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("%v, want %q", err, tt.want)
			case tt.want != "" && api.ExitCode(err) != api.ExitUsage:
				t.Errorf("exit code %d", api.ExitCode(err))
			}
		})
	}
}

func TestValidateReportsAll(t *testing.T) {
	c := valid(t)
	c.Name, c.Listen, c.MySQL.Port, c.Log.Level = "a b", "10.0.0.1:x", -1, "loud"
	c.SetDefaults()
	err := c.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"5 faults", "name:", "listen:", "secret:", "mysql.port:", "log.level:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
}

func TestReadSecret(t *testing.T) {
	c := Config{SecretFile: writeFile(t, "secret", " 0123456789abcdef\n", 0o600)}
	if err := c.ReadSecret(); err != nil || c.Secret != "0123456789abcdef" || c.SecretFile != "" {
		t.Errorf("%v %+v", err, c)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"status", "start", "sandbox", "version", "mysql.data_dir"}
	for word, want := range map[string]string{"stat": "start", "statsu": "status", "sandbx": "sandbox", "zzz": "", "datadir": "mysql.data_dir"} {
		if got := Nearest(word, words); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}
