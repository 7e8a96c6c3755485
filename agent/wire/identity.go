package wire

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// serverName is in every leaf and asked for by every client. Addresses change and names lie; that a
// leaf was signed with the cluster's key is what counts.
const serverName = "ha"

// Certificates are valid for all time: a host whose clock is wrong must still reach its cluster, and
// taking a certificate back means a new secret anyway.
var (
	validFrom = time.Unix(0, 0).UTC()
	validTo   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// Identity is a process's own certificate, issued to itself at start by the cluster CA that the secret
// gives. Its key exists in memory only.
type Identity struct {
	// Network carries what this identity sends and receives; nil: the host's own.
	Network Network

	leaf tls.Certificate
	pool *x509.CertPool
	name string
}

// NewIdentity issues a leaf with name as its common name: the node id of an agent, "client" for a
// command line. Peers read it with [PeerName].
func NewIdentity(k Keys, name string) (*Identity, error) {
	ca, err := caCertificate(k)
	if err != nil {
		return nil, fmt.Errorf("cluster CA: %w", err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("leaf key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("leaf serial: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{serverName},
		NotBefore:    validFrom,
		NotAfter:     validTo,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, pub, k.ca)
	if err != nil {
		return nil, fmt.Errorf("leaf certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &Identity{
		leaf: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: priv},
		pool: pool,
		name: name,
	}, nil
}

// caCertificate makes the cluster's CA certificate. It comes out the same on every host (Ed25519 signs
// deterministically), though only its key matters.
func caCertificate(k Keys) (*x509.Certificate, error) {
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "ha cluster CA"},
		NotBefore:             validFrom,
		NotAfter:              validTo,
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.ca.Public(), k.ca)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (i *Identity) network() Network {
	if i.Network == nil {
		return hostNetwork{}
	}
	return i.Network
}

// Name returns the name that the identity was issued for.
func (i *Identity) Name() string { return i.name }

// ServerTLS returns a configuration for a listener that speaks protos (ALPN names): TLS 1.3 only, the
// client must show a leaf of the same cluster.
func (i *Identity) ServerTLS(protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{i.leaf},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              i.pool,
		NextProtos:             protos,
		SessionTicketsDisabled: true,
	}
}

// ClientTLS returns a configuration for a connection that speaks proto: TLS 1.3 only, the server must
// show a leaf of the same cluster, whatever its address.
func (i *Identity) ClientTLS(proto string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.leaf},
		RootCAs:      i.pool,
		ServerName:   serverName,
		NextProtos:   []string{proto},
	}
}

// PeerName returns the name in the verified certificate of a connection's other end (a node id, or
// "client"), "" if there is none. In an HTTP handler: PeerName(r.TLS).
func PeerName(cs *tls.ConnectionState) string {
	if cs == nil || len(cs.VerifiedChains) == 0 {
		return ""
	}
	return cs.VerifiedChains[0][0].Subject.CommonName
}
