package purge

import (
	"fmt"
	"slices"
	"time"

	"ha/mysqlctl"
	"ha/mysqlctl/gtid"
)

const (
	// grace is for how much longer logs are kept for a member that lacks them: a
	// weekend. After that it has to be copied anew when it comes back.
	grace = 72 * time.Hour
	// atOnce is how many bytes go at a time, filesAtOnce how many files, be they short: to
	// remove them takes locks of the server.
	atOnce      = 10 << 30
	filesAtOnce = 200
	// roomShare of the file system is to stay free, roomMost bytes at most.
	roomShare = 20
	roomMost  = 10 << 30
	// roomLeast is what a PURGE needs: on a full disk it waits for room itself, and
	// keeps the server's other statements about binary logs waiting.
	roomLeast = 1 << 20
)

// Holder is who may need what is in the server's binary logs.
type Holder struct {
	Name    string
	Has     gtid.Set // that much at least
	Archive bool     // what it misses it can get from nowhere else
}

// facts are what purging goes by.
type facts struct {
	now        time.Time
	keep       time.Duration // binlog_expire_logs_seconds
	size, free int64         // of the file system
	holders    []Holder
}

// missing is the room that should be free and is not.
func (f *facts) missing() int64 { return min(f.size/roomShare, roomMost) - f.free }

// verdict is what is to be done.
type verdict struct {
	n     int      // so many files go, the oldest
	early bool     // some before their time: there is no room
	lack  []string // members that lack something of them
	held  string   // why the next does not go too
}

// decide looks at binary logs from the oldest on. holds gives the transactions of one.
func decide(files []mysqlctl.Binlog, holds func(i int) (gtid.Set, error), f facts) (v verdict, err error) {
	missing := f.missing()
	if f.free < roomLeast {
		return v, nil
	}
	var size int64
	for i := 0; i < len(files)-1 && i < filesAtOnce && size < atOnce && f.keep > 0; i++ {
		age, short := f.now.Sub(files[i].Closed), missing > 0
		if age <= f.keep && !short {
			break
		}
		set, err := holds(i)
		if err != nil {
			return v, err
		}
		var lack []string
		for _, h := range f.holders {
			switch {
			case h.Has.Contains(set):
			case h.Archive || age <= f.keep+grace && !short:
				v.held = fmt.Sprintf("%s lacks transactions in %s", h.Name, files[i].Name)
				return v, nil
			default:
				lack = append(lack, h.Name)
			}
		}
		v.n++
		v.early = v.early || age <= f.keep
		v.lack = slices.Compact(slices.Sorted(slices.Values(append(v.lack, lack...))))
		missing -= files[i].Size
		size += files[i].Size
	}
	return v, nil
}
