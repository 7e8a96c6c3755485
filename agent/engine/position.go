package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Position is where in the donor's binary log a copy ends.
type Position struct {
	File   string
	Offset uint64
	// GTID is MySQL's set of executed transactions, or MariaDB's list of the last one
	// of each domain; as the server writes it, without blanks. Empty: the donor has no
	// GTIDs.
	GTID string
}

// parsePosition reads "file TAB offset [TAB gtids] NEWLINE". A MySQL set of several
// servers has a line for each, as @@gtid_executed has.
func parsePosition(text string) (Position, error) {
	fields := strings.SplitN(strings.TrimSpace(text), "\t", 3)
	if len(fields) < 2 || fields[0] == "" {
		return Position{}, fmt.Errorf("no position: %q", text)
	}
	p := Position{File: fields[0]}
	var err error
	if p.Offset, err = strconv.ParseUint(fields[1], 10, 64); err != nil {
		return Position{}, fmt.Errorf("no position: %q", text)
	}
	if len(fields) == 3 {
		p.GTID = strings.Join(strings.Fields(fields[2]), "")
	}
	return p, nil
}

// Position reads that of a copy. Donors have binary logs: a copy without it is none.
func (e Engine) Position(dir string) (Position, error) {
	text, err := readFirst(dir, e.positions)
	if err != nil {
		return Position{}, err
	}
	return parsePosition(text)
}

// checkPrepared reads what the tool itself noted of the state of a copy.
func (e Engine) checkPrepared(dir string) error {
	text, err := readFirst(dir, e.states)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		if strings.TrimSpace(name) != "backup_type" {
			continue
		}
		if state := strings.TrimSpace(value); state != e.prepared {
			return fmt.Errorf("the copy is %s, not %s", state, e.prepared)
		}
		return nil
	}
	return errors.New("the copy does not say whether it is prepared")
}

// readFirst reads the first of these files that exists.
func readFirst(dir string, names []string) (string, error) {
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return string(text), err
		}
	}
	return "", fmt.Errorf("the copy has no %s", names[0])
}
