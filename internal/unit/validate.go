package unit

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Validate names every field that cannot work, by its name in files: one error joined of one line per field.
func (r Record) Validate() error {
	var bad []error
	check := func(field string, err error) {
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", field, err))
		}
	}
	check("agent", checkHostPort(r.Agent))
	if len(r.ClientURLs) == 0 {
		check("client-urls", errors.New("missing"))
	}
	for i, u := range r.ClientURLs {
		check(fmt.Sprintf("client-urls[%d]", i), checkURL(u))
	}
	check("peer-url", checkURL(r.PeerURL))
	if r.Member == "" || strings.ContainsAny(r.Member, ",= \t\n") {
		check("name", fmt.Errorf("%q is no member name, want one word without comma and equals sign", r.Member))
	}
	check("data-dir", checkPath(r.DataDir))
	check("root", checkPath(r.Root))
	for _, optional := range []struct{ field, path string }{
		{"wal-dir", r.WALDir}, {"target", r.Target}, {"etcd-binary", r.EtcdBinary}, {"etcd-tools", r.EtcdTools},
	} {
		if optional.path != "" {
			check(optional.field, checkPath(optional.path))
		}
	}
	if r.Service.Kind != Child {
		check("service.kind", fmt.Errorf("%q is not known, want %q", r.Service.Kind, Child))
	}
	clientTLS := slices.ContainsFunc(r.ClientURLs, isHTTPS)
	started := r.Service.Kind == Child // By us, so that we need what its listeners use.
	check("tls", r.TLS.check(clientTLS))
	check("server-tls", r.ServerTLS.check(clientTLS && started))
	check("peer-tls", r.PeerTLS.check(isHTTPS(r.PeerURL) && started))
	return errors.Join(bad...)
}

// check wants all three files or, unless they are required, none.
func (f TLSFiles) check(required bool) error {
	if f.IsZero() && !required {
		return nil
	}
	for _, path := range []string{f.CA, f.Cert, f.Key} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("want the absolute paths of ca, cert and key, got %q, %q, %q", f.CA, f.Cert, f.Key)
		}
	}
	return nil
}

func isHTTPS(u string) bool { return strings.HasPrefix(u, "https:") }

func checkPath(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is no absolute path", path)
	}
	return nil
}

func checkHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if n, portErr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || portErr != nil || n == 0 {
		return fmt.Errorf("%q is no HOST:PORT", s)
	}
	return nil
}

// checkURL wants what etcd wants: a scheme, a host and a port, nothing behind them.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || checkHostPort(u.Host) != nil || s != u.Scheme+"://"+u.Host {
		return fmt.Errorf("%q is no etcd URL, want https://HOST:PORT", s)
	}
	return nil
}
