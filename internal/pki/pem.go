package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

// The names of PEM blocks.
const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY" // PKCS #8.
	requestBlock     = "CERTIFICATE REQUEST"
)

// maxFileBytes is more than any certificate file holds; it bounds what a wrong path makes us read.
const maxFileBytes = 1 << 20

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// findBlock gives the content of the first block of that type.
func findBlock(data []byte, blockType string) ([]byte, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, fmt.Errorf("no PEM block %q in it", blockType)
		}
		if block.Type == blockType {
			return block.Bytes, nil
		}
	}
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	der, err := findBlock(data, certificateBlock)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	der, err := findBlock(data, keyBlock)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("parse key: want an ECDSA key, got %T", parsed)
	}
	return key, nil
}

// readPrivate reads a file with a private key. A file that others than its owner can open is refused, because then the
// key may be known to them already; the error says what to type.
func readPrivate(path string) (data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat() // Of the open file: the one that is read is the one that was checked.
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("read private key %q: mode %04o opens it to others than its owner; type: chmod 600 %q", path, mode, path)
	}
	data, err = io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	return data, nil
}
