package mysqlctl

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// placed are the options that say where InnoDB keeps files of the data.
var placed = []string{"innodb_data_home_dir", "innodb_undo_directory", "innodb_log_group_home_dir", "innodb_doublewrite_dir"}

// InsideOptions keep all files of a server in its data directory, whatever its my.cnf
// says: for one on a copy, which is to touch no file of the real one.
func InsideOptions(dataDir string) []string {
	var out []string
	for _, name := range append(slices.Clip(placed), "innodb_temp_tablespaces_dir") {
		out = append(out, "--loose-"+strings.ReplaceAll(name, "_", "-")+"="+dataDir)
	}
	return append(out, "--relay-log=relay-bin", "--relay-log-index=relay-bin.index")
}

// Outside names an option by which files of the data are not in the data directory, and
// would not come and go with it; "": none.
func Outside(ctx context.Context, c Config) (string, error) {
	var args []string
	if c.DefaultsFile != "" {
		out, err := exec.CommandContext(ctx, c.Mysqld, "--defaults-file="+c.DefaultsFile, "--print-defaults").Output()
		if err != nil {
			return "", fmt.Errorf("%s --print-defaults: %w", c.Mysqld, err)
		}
		args = strings.Fields(string(out))
	}
	dirs := map[string]string{}
	for _, arg := range append(args, c.Options...) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "--"), "loose-"), "=")
		dirs[strings.ReplaceAll(name, "-", "_")] = value
	}
	for _, name := range placed {
		if dir := dirs[name]; filepath.IsAbs(dir) && !within(dir, c.DataDir) || strings.HasPrefix(filepath.Clean(dir), "..") {
			return name + "=" + dir, nil
		}
	}
	for file := range strings.SplitSeq(dirs["innodb_data_file_path"], ";") {
		if name, _, _ := strings.Cut(file, ":"); filepath.IsAbs(name) && dirs["innodb_data_home_dir"] == "" {
			return "innodb_data_file_path=" + name, nil
		}
	}
	return "", nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
