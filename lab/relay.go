package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// held is how much longer a frame takes that others overtake.
const held = 20 * time.Millisecond

// relay is a box in a host's cable: two TAP devices with a program between them,
// as there is no netem. It is only there while it does something.
type relay struct {
	near, far *os.File
	net       *fabric
	links     []string // that were made
}

// Delay lets each frame from and to the host take that much longer, and a share of
// them (0 to 1) still longer, so that others overtake them. Twice zero ends it.
func (h *Host) Delay(delay time.Duration, reordered float64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.relay != nil {
		if err := h.lab.net.join(cable(h.Name), "br0"); err != nil {
			return err
		}
		h.relay.close()
		h.relay = nil
	}
	if delay == 0 && reordered == 0 {
		return nil
	}
	r := &relay{net: h.lab.net}
	err := r.open(h.Name)
	if err == nil {
		err = h.lab.net.join(cable(h.Name), "box-"+h.Name)
	}
	if err != nil {
		r.close()
		return fmt.Errorf("relay of %s: %w", h.Name, err)
	}
	h.relay = r
	go forward(r.near, r.far, delay, reordered)
	go forward(r.far, r.near, delay, reordered)
	return nil
}

func (r *relay) open(name string) (err error) {
	if err := r.net.addBridge("box-" + name); err != nil {
		return err
	}
	r.links = append(r.links, "box-"+name)
	if r.near, err = r.net.tap("near-"+name, "box-"+name); err != nil {
		return err
	}
	r.far, err = r.net.tap("far-"+name, "br0")
	return err
}

func (r *relay) close() {
	for _, f := range []*os.File{r.near, r.far} {
		if f != nil {
			f.Close() // the device goes with it
		}
	}
	for _, name := range r.links {
		r.net.unplug(name)
	}
}

// tap makes a TAP device on a bridge.
func (f *fabric) tap(name, bridge string) (*os.File, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	fd := -1
	err = in(f.ns, func() error {
		var err error
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	})
	file := os.NewFile(uintptr(fd), name)
	if err == nil {
		var link netlink.Link
		if link, err = f.link.LinkByName(name); err == nil {
			// Long enough for what is under way for 300 ms.
			err = f.link.LinkSetTxQLen(link, 10000)
		}
	}
	if err == nil {
		err = f.join(name, bridge)
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, fmt.Errorf("TAP device %s: %w", name, err)
	}
	return file, nil
}

// forward copies frames, each later, until a file is closed.
func forward(from, to *os.File, delay time.Duration, reordered float64) {
	type frame struct {
		data []byte
		due  time.Time
	}
	queue := make(chan frame, 10000)
	go func() {
		for f := range queue {
			if wait := time.Until(f.due); wait > 0 {
				<-time.After(wait)
			}
			_, _ = to.Write(f.data)
		}
	}()
	defer close(queue)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // it is down
		}
		data := append([]byte(nil), buf[:n]...)
		if rand.Float64() < reordered {
			time.AfterFunc(delay+held, func() { _, _ = to.Write(data) })
			continue
		}
		select {
		case queue <- frame{data, time.Now().Add(delay)}:
		default: // as a full queue does
		}
	}
}
