package api

// PathCopy is where an agent streams its own mysqld's data as a tool reads them: POST
// CopyRequest → a stream as of package xtra, in blocks, which ends with a CopyEnd. The
// recipient's agent asks the donor's.
const PathCopy = "/v1/copy"

// CopyRequest asks for a copy.
type CopyRequest struct {
	Engine   string `json:"engine"`
	Throttle int64  `json:"throttle,omitempty"` // bytes of data per second; 0: no limit
}

// CopyEnd is sent when the tool has ended well, and not before. The recipient compares
// it with what it has got.
type CopyEnd struct {
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Server string `json:"server"` // version of the donor's server
}
