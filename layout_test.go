package main_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The packages have an order, and these tests keep it:
//
//	main → agent → {raftfsm, mysqlctl, vip, xtra, gossip}
//	{raftfsm, mysqlctl, xtra} → mysqlctl/gtid
//
// Adapters import neither raftfsm nor each other, and raftfsm is pure.

const module = "ha"

// mayImport says for each layer which other layers it may import. A layer is a
// directory of the top level with all below it; mysqlctl/gtid is one of its own.
var mayImport = map[string][]string{
	"main":          {"agent"},
	"agent":         {"raftfsm", "mysqlctl", "mysqlctl/gtid", "vip", "xtra", "gossip"},
	"raftfsm":       {"mysqlctl/gtid"},
	"mysqlctl":      {"mysqlctl/gtid"},
	"mysqlctl/gtid": {},
	"vip":           {},
	"xtra":          {"mysqlctl/gtid"},
	"gossip":        {},
}

// topLevel are the directories that the repository may have.
var topLevel = []string{
	"agent", "raftfsm", "mysqlctl", "vip", "xtra", "gossip", "testdata",
	"docs", "deploy", "scripts", "tools", "bench", "lab", ".ci",
}

// source is one Go file, with all that the checks look at.
type source struct {
	path string // relative to the repository, with slashes
	fset *token.FileSet
	file *ast.File
}

func (s source) test() bool    { return strings.HasSuffix(s.path, "_test.go") }
func (s source) pkg() string   { return strings.TrimPrefix(path.Dir(s.path), ".") }
func (s source) layer() string { return layerOf(s.pkg()) }
func (s source) driver() bool  { return isDriver(s.layer()) }
func (s source) at(n ast.Node) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(n.Pos()).Line)
}

// layerOf turns a directory ("" is the top) into its layer.
func layerOf(dir string) string {
	first, rest, _ := strings.Cut(dir, "/")
	switch {
	case dir == "":
		return "main"
	case first == "mysqlctl" && (rest == "gtid" || strings.HasPrefix(rest, "gtid/")):
		return "mysqlctl/gtid"
	}
	return first
}

// isDriver says whether a layer drives the product from outside (benchmarks, the
// lab, scripts): it may import everything, and nothing may import it.
func isDriver(layer string) bool {
	return slices.Contains([]string{"bench", "lab", "scripts", "tools", "deploy"}, layer)
}

// isTestHelper says whether a directory holds a package for tests only, such as
// mysqlctl/mysqltest: its last element is a word that ends in "test".
func isTestHelper(dir string) bool {
	return dir != "" && strings.HasSuffix(path.Base(dir), "test")
}

// imports gives the file's imports as path → the spec.
func (s source) imports() map[string]*ast.ImportSpec {
	m := make(map[string]*ast.ImportSpec)
	for _, spec := range s.file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			m[p] = spec
		}
	}
	return m
}

// checkArrows returns a line for each import that goes against the arrows.
func checkArrows(sources []source) []string {
	var bad []string
	for _, s := range sources {
		if s.driver() {
			continue
		}
		from := s.layer()
		allowed, known := mayImport[from]
		if !known {
			bad = append(bad, fmt.Sprintf("%s: a Go package has no place in %s", s.path, s.pkg()))
			continue
		}
		for imported, spec := range s.imports() {
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			dir := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
			to := layerOf(dir)
			inTest := s.test() || isTestHelper(s.pkg())
			switch {
			case isDriver(to) && from == "main" && s.test():
				// The tests of the whole drive it with the benchmarks' load.
			case isDriver(to):
				bad = append(bad, fmt.Sprintf("%s: %s may be imported by nobody", s.at(spec), to))
			case isTestHelper(dir):
				if !inTest {
					bad = append(bad, fmt.Sprintf("%s: %s is for tests only", s.at(spec), imported))
				}
			case to == from, slices.Contains(allowed, to):
			case s.test() && from == "main":
				// Tests of the whole look at every part.
			default:
				bad = append(bad, fmt.Sprintf("%s: %s must not import %s", s.at(spec), from, imported))
			}
		}
	}
	slices.Sort(bad)
	return bad
}

// impure are the standard packages that raftfsm must not import, with all below
// them. net/netip is the exception: it is arithmetic.
var impure = []string{
	"context", "crypto/rand", "database", "hash/maphash", "io/ioutil", "log", "math/rand", "net",
	"os", "plugin", "runtime", "sync", "syscall", "testing", "unsafe",
}

// impureNames are what raftfsm must not use of packages that it may import.
var impureNames = map[string][]string{
	"time": {
		"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker",
		"Local", "LoadLocation",
	},
	"fmt":           {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	"path/filepath": {"Abs", "EvalSymlinks", "Glob", "Walk", "WalkDir"},
}

// checkPure returns a line for each thing in a raftfsm file that is not a pure
// function of its arguments.
func checkPure(s source) []string {
	var bad []string
	report := func(n ast.Node, format string, args ...any) {
		bad = append(bad, s.at(n)+": "+fmt.Sprintf(format, args...))
	}
	names := make(map[string]string) // local name → watched package
	for imported, spec := range s.imports() {
		ours := imported == module+"/mysqlctl/gtid" || imported == module+"/raftfsm" ||
			strings.HasPrefix(imported, module+"/raftfsm/")
		first, _, _ := strings.Cut(imported, "/")
		switch {
		case ours:
		case strings.Contains(first, ".") || first == module:
			report(spec, "raftfsm imports only the standard library and mysqlctl/gtid, not %s", imported)
		case imported == "net/netip":
		case slices.ContainsFunc(impure, func(p string) bool {
			return imported == p || strings.HasPrefix(imported, p+"/")
		}):
			report(spec, "raftfsm is pure and must not import %s", imported)
		}
		if _, watched := impureNames[imported]; watched {
			local := path.Base(imported)
			if spec.Name != nil {
				local = spec.Name.Name
			}
			if local == "." {
				report(spec, "no dot import of %s: its names would not be seen", imported)
			}
			names[local] = imported
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n, "raftfsm starts no goroutine")
		case *ast.SelectorExpr:
			// An identifier that resolves within the file (Obj) is a variable,
			// not the package.
			if x, ok := n.X.(*ast.Ident); ok && x.Obj == nil && slices.Contains(impureNames[names[x.Name]], n.Sel.Name) {
				report(n, "raftfsm is pure and must not use %s.%s", names[x.Name], n.Sel.Name)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Obj == nil && (f.Name == "print" || f.Name == "println") {
				report(n, "raftfsm does no I/O")
			}
		}
		return true
	})
	slices.Sort(bad)
	return bad
}

// checkTop returns a line for each directory that may not be at the top level.
func checkTop(dirs, ignored []string) []string {
	var bad []string
	for _, d := range dirs {
		if d != ".git" && !slices.Contains(topLevel, d) && !slices.Contains(ignored, d) {
			bad = append(bad, d+"/: not a directory of the top level")
		}
	}
	return bad
}

// ignoredDirs reads the directories of the top level that git ignores.
func ignoredDirs(gitignore string) []string {
	var dirs []string
	for line := range strings.Lines(gitignore) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") && strings.HasSuffix(line, "/") {
			dirs = append(dirs, strings.Trim(line, "/"))
		}
	}
	return dirs
}

// parse reads one Go file; src is its text, or nil to read it from disk.
func parse(t *testing.T, name string, src any) source {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	return source{path: filepath.ToSlash(name), fset: fset, file: file}
}

// parseAll reads all Go files of the repository, whatever their build tags.
func parseAll(t *testing.T) []source {
	t.Helper()
	var sources []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(name, ".go"):
			sources = append(sources, parse(t, name, nil))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

func TestArrows(t *testing.T) {
	for _, bad := range checkArrows(parseAll(t)) {
		t.Error(bad)
	}
}

func TestRaftfsmIsPure(t *testing.T) {
	for _, s := range parseAll(t) {
		if s.layer() != "raftfsm" || s.test() || isTestHelper(s.pkg()) {
			continue
		}
		for _, bad := range checkPure(s) {
			t.Error(bad)
		}
	}
}

func TestTopLevel(t *testing.T) {
	gitignore, err := os.ReadFile(".gitignore")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, e.Name())
		}
	}
	for _, bad := range checkTop(dirs, ignoredDirs(string(gitignore))) {
		t.Error(bad)
	}
}

// The rest proves that the checks can fail.

func TestCheckArrows(t *testing.T) {
	for _, c := range []struct {
		file, imports string
		ok            bool
	}{
		{"main.go", "ha/agent", true},
		{"main.go", "ha/agent/api", true},
		{"main.go", "ha/raftfsm", false},
		{"main.go", "ha/mysqlctl", false},
		{"main.go", "ha/vip", false},
		{"main_test.go", "ha/mysqlctl", true},
		{"e2e_test.go", "ha/bench/load", true},
		{"main.go", "ha/bench/load", false},
		{"agent/agent_test.go", "ha/lab", false},
		{"lab/lab.go", "ha/bench/load", true},
		{"agent/agent.go", "ha/raftfsm", true},
		{"agent/agent.go", "ha/mysqlctl", true},
		{"agent/agent.go", "ha/mysqlctl/gtid", true},
		{"agent/agent.go", "ha/agent/wire", true},
		{"agent/wire/wire.go", "ha/gossip", true},
		{"agent/wire/wire.go", "ha/xtra", true},
		{"agent/agent.go", "ha", false},
		{"agent/agent.go", "ha/bench/failover", false},
		{"agent/archive/archive.go", "ha/mysqlctl", true},
		{"mysqlctl/dump.go", "ha/agent/archive", false},
		{"raftfsm/state.go", "ha/mysqlctl/gtid", true},
		{"raftfsm/state.go", "ha/mysqlctl", false},
		{"raftfsm/state.go", "ha/mysqlctl/gtidx", false},
		{"raftfsm/state.go", "ha/agent", false},
		{"raftfsm/state.go", "ha/gossip", false},
		{"raftfsm/sim/sim.go", "ha/raftfsm", true},
		{"raftfsm/sim/sim.go", "ha/vip", false},
		{"mysqlctl/server.go", "ha/mysqlctl/gtid", true},
		{"mysqlctl/server.go", "ha/raftfsm", false},
		{"mysqlctl/server.go", "ha/agent", false},
		{"mysqlctl/server.go", "ha/xtra", false},
		{"mysqlctl/server_test.go", "ha/xtra", false},
		{"mysqlctl/gtid/set.go", "ha/mysqlctl", false},
		{"mysqlctl/gtid/set.go", "ha/raftfsm", false},
		{"vip/vip.go", "ha/mysqlctl/gtid", false},
		{"vip/vip.go", "ha/gossip", false},
		{"vip/arp/arp.go", "ha/vip", true},
		{"xtra/clone.go", "ha/mysqlctl/gtid", true},
		{"xtra/clone.go", "ha/mysqlctl", false},
		{"xtra/clone.go", "ha/vip", false},
		{"gossip/gossip.go", "ha/raftfsm", false},
		{"gossip/gossip.go", "ha/agent/wire", false},
		{"gossip/gossip.go", "github.com/hashicorp/memberlist", true},
		{"gossip/gossip.go", "harbour/raftfsm", true},
		{"bench/failover/main.go", "ha/agent", true},
		{"bench/failover/main.go", "ha/mysqlctl", true},
		{"xtra/clone_test.go", "ha/mysqlctl/mysqltest", true},
		{"xtra/clone.go", "ha/mysqlctl/mysqltest", false},
		{"mysqlctl/mysqltest/server.go", "ha/mysqlctl", true},
		{"mysqlctl/mysqltest/server.go", "ha/agent", false},
		{"agent/agenttest/cluster.go", "ha/mysqlctl/mysqltest", true},
		{"util/strings.go", "strings", false},
	} {
		s := parse(t, c.file, fmt.Sprintf("package p\nimport x %q\n", c.imports))
		if bad := checkArrows([]source{s}); (len(bad) == 0) != c.ok {
			t.Errorf("%s importing %s: want ok=%v, got %q", c.file, c.imports, c.ok, bad)
		}
	}
}

func TestCheckPure(t *testing.T) {
	for _, c := range []struct {
		name, src string
		ok        bool
	}{
		{"nothing", `type S struct{}`, true},
		{"plain imports", `import ("fmt"; "slices"; "ha/mysqlctl/gtid"); var _ = fmt.Sprint(slices.Max([]int{1}))`, true},
		{"durations", `import "time"; const d = 3 * time.Second; func f(t time.Time) time.Duration { return time.Duration(1) }`, true},
		{"addresses", `import "net/netip"`, true},
		{"a variable named time", `import "time"; var _ time.Duration; func f() { time := s{}; time.Now() }`, true},
		{"time.Now", `import "time"; var t = time.Now()`, false},
		{"time.Now as a value", `import "time"; var f = time.Now`, false},
		{"time.Now, renamed", `import clock "time"; var t = clock.Now()`, false},
		{"time, dotted", `import . "time"; var t = Now()`, false},
		{"time.Since", `import "time"; func f(t time.Time) { _ = time.Since(t) }`, false},
		{"time.Until", `import "time"; func f(t time.Time) { _ = time.Until(t) }`, false},
		{"time.After", `import "time"; func f() { <-time.After(1) }`, false},
		{"time.AfterFunc", `import "time"; func f() { time.AfterFunc(1, f) }`, false},
		{"time.Sleep", `import "time"; func f() { time.Sleep(1) }`, false},
		{"time.NewTicker", `import "time"; func f() { time.NewTicker(1) }`, false},
		{"os", `import "os"`, false},
		{"os/exec", `import "os/exec"`, false},
		{"net", `import "net"`, false},
		{"net/http", `import "net/http"`, false},
		{"math/rand", `import "math/rand"`, false},
		{"math/rand/v2", `import "math/rand/v2"`, false},
		{"crypto/rand", `import "crypto/rand"`, false},
		{"sync", `import "sync"`, false},
		{"sync/atomic", `import "sync/atomic"`, false},
		{"context", `import "context"`, false},
		{"log/slog", `import "log/slog"`, false},
		{"runtime", `import "runtime"`, false},
		{"runtime/debug", `import "runtime/debug"`, false},
		{"blank import", `import _ "os"`, false},
		{"raft", `import "github.com/hashicorp/raft"`, false},
		{"x/sync", `import "golang.org/x/sync/errgroup"`, false},
		{"an adapter", `import "ha/vip"`, false},
		{"mysqlctl", `import "ha/mysqlctl"`, false},
		{"go statement", `func f() { go f() }`, false},
		{"go statement, nested", `var f = func() { func() { go func() {}() }() }`, false},
		{"fmt.Println", `import "fmt"; func f() { fmt.Println() }`, false},
		{"println", `func f() { println("x") }`, false},
	} {
		s := parse(t, "raftfsm/x.go", "package raftfsm\n"+c.src)
		if bad := checkPure(s); (len(bad) == 0) != c.ok {
			t.Errorf("%s: want ok=%v, got %q", c.name, c.ok, bad)
		}
	}
}

func TestCheckTop(t *testing.T) {
	ignored := ignoredDirs("/ha\n/.deps/\n*.test\n")
	if bad := checkTop([]string{".git", ".ci", "agent", "docs", ".deps"}, ignored); len(bad) != 0 {
		t.Errorf("allowed directories were refused: %q", bad)
	}
	if bad := checkTop([]string{"agent", "internal", "pkg", "ha"}, ignored); len(bad) != 3 {
		t.Errorf("want internal, pkg and ha refused, got %q", bad)
	}
}
