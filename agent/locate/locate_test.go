package locate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ha/agent/api"
)

// home gives the test its own places to look at.
func home(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("XDG_STATE_HOME", filepath.Join(dir, "state"))
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	return dir
}

func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// putSandbox registers a sandbox with agents on two addresses.
func putSandbox(t *testing.T, dir, net string) {
	t.Helper()
	secret := put(t, filepath.Join(dir, "secret"), "0123456789abcdef-"+net+"\n")
	client := put(t, filepath.Join(dir, "client.toml"),
		"secret_file = \""+secret+"\"\njoin = [\""+net+".1:8801\", \""+net+".2:8801\"]\n")
	if err := os.MkdirAll(Registry(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(client, filepath.Join(Registry(), net+".0-8801.toml")); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	const agentConfig = "listen = \"10.0.0.1\"\njoin = [\"10.0.0.2\"]\nsecret = \"0123456789abcdef\"\n"
	tests := []struct {
		name   string
		setup  func(t *testing.T, dir string, o *Options)
		opts   Options
		secret string
		addrs  []string
	}{
		{"nothing at all", nil, Options{}, "", []string{"127.0.0.1:8801"}},
		{"an address", nil, Options{Addr: "127.0.0.2"}, "", []string{"127.0.0.2:8801"}},
		{"the file named", func(t *testing.T, dir string, o *Options) {
			o.Config = put(t, dir+"/x.toml", agentConfig)
			putSandbox(t, dir+"/s1", "127.0.1")
		}, Options{}, "0123456789abcdef", []string{"10.0.0.1:8801", "10.0.0.2:8801"}},
		{"the file named and an address", func(t *testing.T, dir string, o *Options) {
			o.Config = put(t, dir+"/x.toml", agentConfig)
		}, Options{Addr: "10.0.0.2"}, "0123456789abcdef", []string{"10.0.0.2:8801", "10.0.0.1:8801"}},
		{"the usual place", func(t *testing.T, dir string, _ *Options) {
			put(t, dir+"/config/ha/ha.toml", agentConfig)
			putSandbox(t, dir+"/s1", "127.0.1")
		}, Options{}, "0123456789abcdef", []string{"10.0.0.1:8801", "10.0.0.2:8801"}},
		{"a sandbox's address wins over the usual place", func(t *testing.T, dir string, _ *Options) {
			put(t, dir+"/config/ha/ha.toml", agentConfig)
			putSandbox(t, dir+"/s1", "127.0.1")
		}, Options{Addr: "127.0.1.2"}, "0123456789abcdef-127.0.1", []string{"127.0.1.2:8801", "127.0.1.1:8801"}},
		{"the only sandbox", func(t *testing.T, dir string, _ *Options) {
			putSandbox(t, dir+"/s1", "127.0.1")
		}, Options{}, "0123456789abcdef-127.0.1", []string{"127.0.1.1:8801", "127.0.1.2:8801"}},
		{"one of two sandboxes", func(t *testing.T, dir string, _ *Options) {
			putSandbox(t, dir+"/s1", "127.0.1")
			putSandbox(t, dir+"/s2", "127.0.2")
		}, Options{Addr: "127.0.2.1:8801"}, "0123456789abcdef-127.0.2", []string{"127.0.2.1:8801", "127.0.2.2:8801"}},
		{"a sandbox that was removed", func(t *testing.T, dir string, _ *Options) {
			putSandbox(t, dir+"/s1", "127.0.1")
			putSandbox(t, dir+"/s2", "127.0.2")
			os.RemoveAll(dir + "/s2")
		}, Options{}, "0123456789abcdef-127.0.1", []string{"127.0.1.1:8801", "127.0.1.2:8801"}},
		{"peers that the agent knows", func(t *testing.T, dir string, o *Options) {
			o.Config = put(t, dir+"/x.toml", agentConfig+"data_dir = \"data\"\n")
			put(t, dir+"/data/"+PeersFile, `["10.0.0.2:8801","10.0.0.3:8801"]`)
		}, Options{}, "0123456789abcdef", []string{"10.0.0.1:8801", "10.0.0.2:8801", "10.0.0.3:8801"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := home(t)
			if tt.setup != nil {
				tt.setup(t, dir, &tt.opts)
			}
			c, err := Find(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			if c.Secret != tt.secret || !slices.Equal(c.Addrs, tt.addrs) {
				t.Errorf("%q %v, want %q %v", c.Secret, c.Addrs, tt.secret, tt.addrs)
			}
		})
	}
}

func TestFindSaysWhatIsMissing(t *testing.T) {
	dir := home(t)
	if _, err := Find(Options{Config: dir + "/none.toml"}); api.ExitCode(err) != api.ExitUsage {
		t.Errorf("missing file: %v", err)
	}
	putSandbox(t, dir+"/s1", "127.0.1")
	putSandbox(t, dir+"/s2", "127.0.2")
	_, err := Find(Options{})
	if api.ExitCode(err) != api.ExitUsage || !strings.Contains(err.Error(), "2 sandboxes") {
		t.Errorf("two sandboxes: %v", err)
	}
}
