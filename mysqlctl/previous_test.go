package mysqlctl

import (
	"testing"

	"ha/mysqlctl/gtid"
)

// Previous_gtids are written as they are read. What a server makes of them is tested by
// each dump.
func TestPreviousGTIDs(t *testing.T) {
	const a, b = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
	for _, text := range []string{"", a + ":1", a + ":1-5:7-9," + b + ":3", a + ":tag:4-5", a + ":1-3:tag:4-5:zag:1," + b + ":_x:9"} {
		set := gtid.MustParse(text)
		var c gtidCollector
		if err := c.addPrevious(set.Binary()); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got, err := c.set(); err != nil || !got.Equal(set) {
			t.Errorf("%s was read as %s; %v", text, got, err)
		}
	}
}
