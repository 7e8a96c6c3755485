package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ha/agent"
	"ha/agent/api"
)

func TestPlan(t *testing.T) {
	o := Options{Dir: "/tmp/x", Nodes: 2, Witnesses: 1, Base: "127.0.7.0", Port: 8801, MySQLPort: 3306}
	s, err := plan(o)
	if err != nil {
		t.Fatal(err)
	}
	want := []Node{
		{Name: "n1", Agent: "127.0.7.1:8801", MySQL: "127.0.7.1:3306"},
		{Name: "n2", Agent: "127.0.7.2:8801", MySQL: "127.0.7.2:3306"},
		{Name: "n3", Agent: "127.0.7.3:8801", Witness: true},
	}
	for i, n := range s.Nodes {
		if n != want[i] {
			t.Errorf("%+v, want %+v", n, want[i])
		}
	}
	for name, change := range map[string]func(*Options){
		"no nodes":       func(o *Options) { o.Nodes = 0 },
		"many":           func(o *Options) { o.Nodes = 99 },
		"no loopback":    func(o *Options) { o.Base = "10.0.0.0" },
		"no address":     func(o *Options) { o.Base = "x" },
		"IPv6":           func(o *Options) { o.Base = "::1" },
		"end of network": func(o *Options) { o.Base = "127.0.7.253" },
		"a long path":    func(o *Options) { o.Dir = "/" + strings.Repeat("x", 100) },
	} {
		bad := o
		change(&bad)
		if _, err := plan(bad); api.ExitCode(err) != api.ExitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The files that up writes are ones that the agent takes, and up again leaves
// them alone.
func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	s, err := plan(Options{Dir: dir, Nodes: 2, Witnesses: 1, Base: DefaultBase, Port: DefaultPort, MySQLPort: DefaultMySQLPort})
	if err != nil {
		t.Skip(err) // the test's own directory has a long path
	}
	s.Mysqld = os.Args[0] // a program that exists
	if err := s.writeFiles(); err != nil {
		t.Fatal(err)
	}
	for i, n := range s.Nodes {
		c, err := agent.LoadConfig(s.configFile(n.Name))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDefaults()
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", n.Name, err)
		}
		if c.Name != n.Name || c.Listen != n.Agent || c.Witness != n.Witness || (len(c.Join) == 0) != (i == 0) {
			t.Errorf("%s: %+v", n.Name, c)
		}
		if !n.Witness && c.MySQL.Socket != s.socket(n.Name) {
			t.Errorf("socket %s", c.MySQL.Socket)
		}
	}
	changed := s.configFile("n1")
	if err := os.WriteFile(changed, []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	secret, _ := os.ReadFile(filepath.Join(dir, "secret"))
	if err := s.writeFiles(); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(changed); string(text) != "# mine\n" {
		t.Error("a person's change was overwritten")
	}
	if again, _ := os.ReadFile(filepath.Join(dir, "secret")); string(again) != string(secret) {
		t.Error("the secret changed")
	}
	opened, err := Open(dir)
	if err != nil || len(opened.Nodes) != 3 {
		t.Errorf("open: %v", err)
	}
}

func TestClassify(t *testing.T) {
	for _, tt := range []struct{ cmdline, kind, path string }{
		{"/x/ha agent --config /d/n1/ha.toml", "agent", "/d/n1/ha.toml"},
		{"/x/ld-linux --library-path /l --argv0 /p/mysqld /p/mysqld --no-defaults --datadir=/d/n1/data --port=1", "mysqld", "/d/n1/data"},
		{"/usr/sbin/mysqld --datadir=/d/template.new --initialize-insecure", "mysqld", "/d/template.new"},
		{"/bin/sh /p/bin/mysqld --datadir=/d/n1/data", "mysqld", "/d/n1/data"},
		{"vi /d/n1/ha.toml", "", ""},
		{"less /d/n1/agent.log", "", ""},
		{"grep --datadir=/d/n1/data x", "", ""},
		{"/x/ha status --config /d/client.toml", "", ""},
	} {
		if kind, path := classify(strings.Fields(tt.cmdline)); kind != tt.kind || path != tt.path {
			t.Errorf("%s: %q %q", tt.cmdline, kind, path)
		}
	}
}

func TestPortFree(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := portFree(addr, true); api.ExitCode(err) != api.ExitFailed || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("%v", err)
	}
	l.Close()
	if err := portFree(addr, true); err != nil {
		t.Errorf("%v", err)
	}
}

func TestFindMysqld(t *testing.T) {
	t.Setenv("HA_MYSQLD", "")
	t.Setenv("PATH", "/nonexistent")
	dir := t.TempDir()
	_, err := FindMysqld("", filepath.Join(dir, "ha"))
	if api.ExitCode(err) != api.ExitFailed || !strings.Contains(err.Error(), dir+"/.deps/mysql/bin/mysqld") {
		t.Errorf("%v", err)
	}
	beside := filepath.Join(dir, ".deps/mysql/bin/mysqld")
	if err := os.MkdirAll(filepath.Dir(beside), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(beside, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := FindMysqld("", filepath.Join(dir, "ha")); err != nil || got != beside {
		t.Errorf("%q %v", got, err)
	}
	t.Setenv("HA_MYSQLD", "/nonexistent/mysqld")
	if _, err := FindMysqld("", filepath.Join(dir, "ha")); err == nil {
		t.Error("a wrong HA_MYSQLD is passed over")
	}
}

func TestAgain(t *testing.T) {
	s := &Sandbox{Dir: "/d", Base: DefaultBase, Port: 8801, MySQLPort: 3306, Mysqld: os.Args[0], Nodes: []Node{{Name: "n1"}, {Name: "n2"}, {Name: "n3", Witness: true}}}
	for _, o := range []Options{{Witnesses: -1}, {Nodes: 2, Witnesses: 1, Base: DefaultBase, Port: 8801}} {
		if _, err := s.again(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := s.again(Options{Nodes: 3, Witnesses: -1}); api.ExitCode(err) != api.ExitUsage {
		t.Errorf("%v", err)
	}
}
