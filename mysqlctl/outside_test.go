package mysqlctl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/mysqltest"
)

// Files of the data that lie elsewhere are found in my.cnf and in the options.
func TestOutside(t *testing.T) {
	mysqld, dir := mysqltest.Mysqld(t), t.TempDir()
	for _, tc := range []struct{ file, option, want string }{
		{"", "", ""},
		{"innodb_undo_directory=/elsewhere", "", "innodb_undo_directory=/elsewhere"},
		{"innodb-log-group-home-dir = /elsewhere", "", "innodb_log_group_home_dir=/elsewhere"},
		{"innodb_undo_directory=/elsewhere", "--innodb-undo-directory=./", ""},
		{"", "--loose-innodb-doublewrite-dir=/elsewhere", "innodb_doublewrite_dir=/elsewhere"},
		{"innodb_data_home_dir=" + dir + "\ninnodb_undo_directory=" + dir + "/undo", "", ""},
		{"innodb_data_file_path=/elsewhere/ibdata1:12M:autoextend\ninnodb_data_home_dir=", "", "innodb_data_file_path=/elsewhere/ibdata1"},
		{"innodb_undo_directory=../undo", "", "innodb_undo_directory=../undo"},
	} {
		c := mysqlctl.Config{Mysqld: mysqld, DataDir: dir}
		if tc.file != "" {
			c.DefaultsFile = filepath.Join(t.TempDir(), "my.cnf")
			must(t, os.WriteFile(c.DefaultsFile, []byte("[mysqld]\n"+tc.file+"\n"), 0o600))
		}
		if tc.option != "" {
			c.Options = []string{tc.option}
		}
		got, err := mysqlctl.Outside(mysqltest.Ctx(t, time.Minute), c)
		if err != nil || got != tc.want {
			t.Errorf("%q, %q: %q, %v", tc.file, tc.option, got, err)
		}
	}
}

// A server on a copy keeps to its directory, whatever my.cnf says.
func TestInsideOptions(t *testing.T) {
	elsewhere := t.TempDir()
	c := mysqltest.Config(t, t.TempDir())
	c.DefaultsFile = filepath.Join(t.TempDir(), "my.cnf")
	must(t, os.WriteFile(c.DefaultsFile, []byte("[mysqld]\ninnodb_undo_directory="+elsewhere+"\ninnodb_log_group_home_dir="+elsewhere+
		"\ninnodb_data_home_dir="+elsewhere+"\ninnodb_doublewrite_dir="+elsewhere+"\ninnodb_temp_tablespaces_dir="+elsewhere+"\n"), 0o600))
	c.Options = append(c.Options, mysqlctl.InsideOptions(c.DataDir)...)
	n := mysqltest.Wrap(t, c)
	ctx := mysqltest.Ctx(t, time.Minute)
	must(t, n.Initialize(ctx))
	must(t, n.Start(ctx))
	must(t, n.Stop(ctx))
	found, err := os.ReadDir(elsewhere)
	must(t, err)
	for _, e := range found {
		t.Errorf("%s was written", e.Name())
	}
	if found, _ := filepath.Glob(filepath.Join(n.Config.DataDir, "undo_00*")); len(found) != 2 || strings.Contains(found[0], elsewhere) {
		t.Errorf("%v", found)
	}
}
