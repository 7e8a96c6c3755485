package engine

import (
	"strings"
	"testing"
)

// The words of xtrabackup are from its documentation, those of mariadb-backup are its own.
func TestFits(t *testing.T) {
	const (
		pxb80 = "xtrabackup version 8.0.35-31 based on MySQL server 8.0.35 Linux (x86_64) (revision id: 55ec21d7)"
		pxb84 = "2025-01-02T10:00:00.000000-00:00 0 [Note] [MY-011825] [Xtrabackup] recognized server arguments: --datadir=/d\nxtrabackup version 8.4.0-2 based on MySQL server 8.4.0 Linux (x86_64) (revision id: 29b4ca5e)"
		mdb   = "mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)"
	)
	for name, c := range map[string]struct {
		e                  Engine
		tool, server, want string
	}{
		"same":               {XtraBackup, pxb80, "8.0.35", ""},
		"older server":       {XtraBackup, pxb80, "8.0.30-log", ""},
		"newer 8.0":          {XtraBackup, pxb80, "8.0.36", "is of MySQL 8.0.35, and the server is 8.0.36"},
		"8.4 is one format":  {XtraBackup, pxb84, "8.4.6", ""},
		"another release":    {XtraBackup, pxb84, "9.7.4-2", "is of MySQL 8.4.0, and the server is 9.7.4-2"},
		"MariaDB":            {XtraBackup, pxb84, "10.11.19-MariaDB", "copies MySQL, and the server is MariaDB"},
		"MariaDB same":       {MariaDBBackup, mdb, "10.11.19-MariaDB-0+deb12u1-log", ""},
		"MariaDB release":    {MariaDBBackup, mdb, "11.8.3-MariaDB", "and the server is 11.8.3"},
		"MySQL":              {MariaDBBackup, mdb, "9.7.4", "copies MariaDB, and the server is MySQL 9.7.4"},
		"another tool":       {MariaDBBackup, pxb80, "10.11.19-MariaDB", "it is not known"},
		"says nothing":       {XtraBackup, "", "8.0.35", "it is not known"},
		"unknown server":     {XtraBackup, pxb80, "", "it is not known"},
		"two digits, not 10": {MariaDBBackup, mdb, "10.1.48-MariaDB", "and the server is 10.1.48"},
	} {
		got := c.e.fits(c.tool, c.server)
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestParsePosition(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want Position
		ok   bool
	}{
		"MySQL":             {"mysql-bin.000002\t1232\tc777888a-b6df-11e2-a604-080027635ef5:1-4\n", Position{"mysql-bin.000002", 1232, "c777888a-b6df-11e2-a604-080027635ef5:1-4"}, true},
		"several servers":   {"binlog.000007\t1763\t5da251ea-74c1-11eb-8aac-fa163e95ab6d:1-21,\n722e4aaa-7579-11eb-b5d9-fa163e95ab6d:1-8\n", Position{"binlog.000007", 1763, "5da251ea-74c1-11eb-8aac-fa163e95ab6d:1-21,722e4aaa-7579-11eb-b5d9-fa163e95ab6d:1-8"}, true},
		"MariaDB":           {"mysql-bin.000003\t342\t0-1-7,1-2-9\n", Position{"mysql-bin.000003", 342, "0-1-7,1-2-9"}, true},
		"without GTIDs":     {"binlog.000002\t156\n", Position{"binlog.000002", 156, ""}, true},
		"nothing executed":  {"binlog.000001\t157\t\n", Position{"binlog.000001", 157, ""}, true},
		"empty":             {"", Position{}, false},
		"no offset":         {"binlog.000001\n", Position{}, false},
		"offset is no such": {"binlog.000001\tx\t\n", Position{}, false},
		"no file":           {"\t12\t0-1-7\n", Position{}, false},
	} {
		got, err := parsePosition(c.text)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestFind(t *testing.T) {
	for _, e := range All {
		if got, err := Find(e.Name); err != nil || got.backup != e.backup {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
	if _, err := Find("tar"); err == nil {
		t.Error("tar is an engine")
	}
}

func TestTail(t *testing.T) {
	var s tail
	for range 10_000 {
		_, _ = s.Write([]byte("copying a file, ...done\n"))
	}
	if s.done() || s.buf.Len() > 2*tailBytes {
		t.Errorf("%d bytes, done %v", s.buf.Len(), s.done())
	}
	_, _ = s.Write([]byte("[00] 2026-01-01 00:00:00 completed OK!\n"))
	if !s.done() || !strings.HasPrefix(s.last(2), "copying a file, ...done; [00]") {
		t.Errorf("%q", s.last(2))
	}
}
