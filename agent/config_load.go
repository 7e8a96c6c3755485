package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/BurntSushi/toml"

	"ha/agent/api"
)

// LoadConfig reads a configuration file. Relative paths in it start at the
// file's directory. Every error has exit code 2 and names the file; unknown
// keys are errors, each with the nearest known one.
func LoadConfig(path string) (Config, error) {
	var c Config
	text, err := os.ReadFile(path)
	if err != nil {
		e := api.Usage("configuration %s: %w", path, cause(err))
		if errors.Is(err, fs.ErrNotExist) {
			return c, e.WithHint("Give the path of an existing file with --config or HA_CONFIG; docs/CONFIG.md shows one.")
		}
		return c, e.WithHint("See who may read it: ls -l %s", path)
	}
	meta, err := toml.Decode(string(text), &c)
	if err != nil {
		var parse toml.ParseError
		if errors.As(err, &parse) {
			return Config{}, api.Usage("configuration %s is not valid TOML: %s", path, strings.TrimSpace(parse.ErrorWithPosition())).
				WithHint("docs/CONFIG.md shows every key with an example.")
		}
		return Config{}, api.Usage("configuration %s: %w", path, err).
			WithHint("docs/CONFIG.md shows every key with its type.")
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return Config{}, unknownKeys(path, unknown)
	}
	c.resolve(filepath.Dir(path))
	if info, err := os.Stat(path); err == nil && c.Secret != "" && info.Mode().Perm()&0o007 != 0 {
		return Config{}, api.Usage("configuration %s holds the secret and everybody on this host may read it", path).
			WithHint("chmod 600 %s, or move the secret to a file of its own: secret_file = ...", path)
	}
	return c, nil
}

// resolve makes the file's relative paths absolute.
func (c *Config) resolve(dir string) {
	dir = absolute(dir)
	for _, p := range []*string{
		&c.SecretFile, &c.DataDir, &c.RuntimeDir, &c.MySQL.DataDir, &c.MySQL.Socket,
		&c.MySQL.PidFile, &c.MySQL.LogFile, &c.MySQL.DefaultsFile, &c.Archive.Dir,
	} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	// A bare name is looked for in PATH.
	if m := &c.MySQL.Mysqld; strings.Contains(*m, "/") && !filepath.IsAbs(*m) {
		*m = filepath.Join(dir, *m)
	}
}

func unknownKeys(path string, unknown []toml.Key) error {
	known := configKeys(reflect.TypeFor[Config](), "")
	var lines []string
	for i, key := range unknown {
		// An unknown table is undecoded as a whole and key by key: once is enough.
		if i > 0 && strings.HasPrefix(key.String(), unknown[i-1].String()+".") {
			unknown[i] = unknown[i-1]
			continue
		}
		line := "unknown key " + key.String()
		if near := Nearest(key.String(), known); near != "" {
			line += " (did you mean " + near + "?)"
		}
		lines = append(lines, line)
	}
	return api.Usage("configuration %s: %s", path, strings.Join(lines, "; ")).
		WithHint("Known keys: %s", strings.Join(known, ", "))
}

// configKeys lists the keys that a configuration file may have.
func configKeys(t reflect.Type, prefix string) []string {
	var keys []string
	for f := range fields(t) {
		tag := f.Tag.Get("toml")
		switch {
		case tag == "-":
		case f.Type.Kind() == reflect.Struct:
			keys = append(keys, configKeys(f.Type, prefix+tag+".")...)
		case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Struct:
			keys = append(keys, configKeys(f.Type.Elem(), prefix+tag+".")...)
		default:
			keys = append(keys, prefix+tag)
		}
	}
	return keys
}

func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// Nearest gives the candidate that word is probably a misspelling of, or "".
func Nearest(word string, candidates []string) string {
	best, bestDistance := "", len(word)/3+1
	word = normal(word)
	for _, c := range candidates {
		d := distance(word, normal(c))
		// mysql.data_dir for datadir: the last part counts as well.
		if i := strings.LastIndexByte(c, '.'); i >= 0 && !strings.Contains(word, ".") {
			d = min(d, distance(word, normal(c[i+1:])))
		}
		if d < bestDistance || d == bestDistance && best == "" {
			best, bestDistance = c, d
		}
	}
	return best
}

// normal drops what people mix up most.
func normal(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
}

// distance is the number of letters to add, drop or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// cause drops the path from a file error: the message has it already.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
