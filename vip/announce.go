package vip

import (
	"bytes"
	"time"
)

const (
	// announceOften is how often it is announced while an earlier holder may still
	// answer; announceAtOnce is for the first moments, as frames get lost.
	announceOften  = 250 * time.Millisecond
	announceAtOnce = 50 * time.Millisecond
	// announceRarely mends what a network forgot.
	announceRarely = 30 * time.Second
	// listenOften is how often a successor is listened for.
	listenOften = 5 * time.Millisecond
	// askOften is how often a stranger is asked whether it is there still.
	askOften = time.Second
	// strangerFor is how long a stranger is remembered that does not answer.
	strangerFor = 5 * time.Second
)

// announce says where the addresses are, asks whether anybody else has them, and
// looks at the answers. It gives when to be called next.
func (m *Manager) announce() (next time.Duration) {
	next = lookEvery
	for _, a := range m.addresses {
		now := m.cfg.Boottime()
		m.listen(a, now)
		if left := a.expires - endEarly - now; a.on && left > 0 {
			next = min(next, left)
		}
		if a.order.want == yield && a.on {
			next = min(next, listenOften)
		}
		if a.order.want != hold || !a.on && !a.refused {
			continue // whatever is there yet, it is not for us to claim it
		}
		if now >= a.speakAt {
			m.speak(a)
			a.speakAt = now + a.pause(now)
		}
		next = min(next, a.speakAt-now)
	}
	return max(next, time.Millisecond)
}

// pause is the time between two announcements.
func (a *address) pause(now time.Duration) time.Duration {
	switch {
	case now-a.since < 2*announceAtOnce:
		return announceAtOnce
	case now < a.contested:
		return announceOften
	case a.stranger != nil:
		return askOften
	}
	return announceRarely
}

// speak sends what was not true a moment ago only if this process was stopped in
// between: the holder hears that and speaks again. A link that is down is no news.
func (m *Manager) speak(a *address) {
	frames := [][]byte{question(a.link.mac, a.Addr)}
	if a.on && !m.over(a) {
		frames = append(announcement(a.link.mac, a.Addr), frames...)
	}
	for _, f := range frames {
		if err := a.socket.send(f); err != nil {
			m.log.Debug("virtual IP not announced", "vip", a.Addr, "err", err)
			return
		}
	}
}

// listen looks at who else claims the address. A member may: its lifetime is not
// over yet. From a stranger it is taken for good only where no earlier holder can
// be the one that answers, with a link that we do not know of.
func (m *Manager) listen(a *address, now time.Duration) {
	heard := a.socket.claimants(a.Addr) // also where it is not held, so that no old ones lie there
	for _, mac := range heard {
		if bytes.Equal(mac, a.link.mac) || !a.on && !a.refused || m.kernel.isOwn(mac) {
			continue // two links to one network answer for each other
		}
		if m.cfg.Member != nil && m.cfg.Member(mac) {
			if a.order.want == yield {
				m.takeOff(a)
			}
			a.speakAt = now // it was stopped and announced what it no longer has, say
			continue
		}
		if a.stranger.String() != mac.String() {
			m.log.Warn("a host that is no member has the virtual IP", "vip", a.Addr, "mac", mac.String())
			a.speakAt = now // and let the network know who should
		}
		a.stranger, a.strangerAt = mac, now
		if a.on && now > a.contested {
			m.log.Error("virtual IP given up to a host that is no member", "vip", a.Addr, "mac", mac.String())
			a.refused = true
			m.takeOff(a)
		}
	}
	if a.stranger != nil && now-a.strangerAt > strangerFor {
		m.log.Info("nobody else has the virtual IP any more", "vip", a.Addr)
		a.stranger, a.refused = nil, false
		m.reconcile()
	}
}
