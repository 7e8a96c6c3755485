package api

// PathBackup is where an agent gives a backup of its own mysqld: POST BackupRequest →
// a stream as of package xtra. The client asks the donor itself.
const PathBackup = "/v1/backup"

// BackupRequest asks for a backup.
type BackupRequest struct {
	Throttle int64 `json:"throttle,omitempty"` // bytes per second on the network; 0: no limit
}

// BackupProgress says how a backup goes.
type BackupProgress struct {
	Phase string `json:"phase"` // copy, prepare, send
	Done  int64  `json:"done"`  // bytes of this phase
	Total int64  `json:"total"` // an estimate; 0: not known
}
