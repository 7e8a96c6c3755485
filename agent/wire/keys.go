// Package wire is the one port of an agent: TLS 1.3 over TCP with ALPN choosing the protocol, and UDP
// on the same number. Everything that proves membership comes from the cluster secret: who holds the
// secret is trusted, who does not gets no further than the handshake.
package wire

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// noSecret stands in for an empty secret. Everybody can read it here, so a cluster without a secret is
// open to everyone who reaches its port: the caller lets it bind loopback addresses only.
const noSecret = "ha: a cluster without a secret is for loopback addresses only"

// Keys are what a cluster's secret is turned into. The parts are independent: knowing one does not
// give the secret or the other.
type Keys struct {
	gossip []byte
	ca     ed25519.PrivateKey
}

// DeriveKeys derives the keys by HKDF-SHA256; the same secret gives the same keys on every host. An
// empty secret gives well-known keys, good for loopback addresses only; the caller must enforce that.
//
// Anyone who connects is shown a certificate signed with a derived key and can try guesses against it
// offline, and HKDF does not slow him down: secrets should come from [NewSecret], not from a person.
func DeriveKeys(secret string) Keys {
	if secret == "" {
		secret = noSecret
	}
	return Keys{
		gossip: derive(secret, "ha gossip 1", 32),
		ca:     ed25519.NewKeyFromSeed(derive(secret, "ha cluster CA 1", ed25519.SeedSize)),
	}
}

func derive(secret, purpose string, n int) []byte {
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, purpose, n)
	if err != nil { // only for lengths that no constant above has, or a secret too short for FIPS mode
		panic("derive " + purpose + ": " + err.Error())
	}
	return key
}

// GossipKey returns the 32-byte key (AES-256) of the gossip packets.
func (k Keys) GossipKey() []byte { return append([]byte(nil), k.gossip...) }

// NewSecret returns a fresh cluster secret: 32 random bytes as 43 printable characters without
// spaces, quotes or shell metacharacters.
func NewSecret() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails: it ends the process instead
	return base64.RawURLEncoding.EncodeToString(b)
}
