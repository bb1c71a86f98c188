package s3

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// Credentials say who asks. The zero value looks where AWS's own tools do: the variables AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; the shared files, for the profile AWS_PROFILE; the role of the pod, container
// or machine. Files are read anew for each request, so that keys can be changed under way. Nobody asks without credentials.
type Credentials struct {
	// AccessKey and SecretKey, with a SessionToken when they are temporary, are used as they are.
	AccessKey, SecretKey, SessionToken string
	// File and Profile take them from a shared credentials file of AWS only; "" means the usual file or profile.
	File, Profile string
}

// String shows nothing secret.
func (c Credentials) String() string {
	switch {
	case c.AccessKey != "":
		return "given keys"
	case c.File != "" || c.Profile != "":
		return fmt.Sprintf("file %q, profile %q", c.File, c.Profile)
	}
	return "those of AWS's tools"
}

// GoString shows nothing secret.
func (c Credentials) GoString() string { return c.String() }

// source is one place where keys may be.
type source struct {
	name string
	credentials.Provider
}

// keyring finds keys and remembers the last ones, to keep them out of errors. The client calls the methods of a provider
// one at a time; clean may be called meanwhile.
type keyring struct {
	sources []source
	current credentials.Provider

	mu   sync.Mutex
	last credentials.Value
}

func newKeyring(c Credentials) *keyring {
	switch {
	case c.AccessKey != "":
		fixed := credentials.Value{AccessKeyID: c.AccessKey, SecretAccessKey: c.SecretKey, SessionToken: c.SessionToken, SignerType: credentials.SignatureV4}
		return &keyring{sources: []source{{"given keys", &credentials.Static{Value: fixed}}}}
	case c.File != "" || c.Profile != "":
		return &keyring{sources: []source{{"shared files", &credentials.FileAWSCredentials{Filename: c.File, Profile: c.Profile}}}}
	}
	return &keyring{sources: []source{
		{"environment", &credentials.EnvAWS{}},
		{"shared files", &credentials.FileAWSCredentials{}},
		{"role", &credentials.IAM{Client: roleClient()}},
	}}
}

// roleClient asks for the keys of a role. Where there is none, its address leads nowhere, and that must show soon.
func roleClient() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		DisableKeepAlives: true,
		Proxy: func(r *http.Request) (*url.URL, error) {
			ip, err := netip.ParseAddr(r.URL.Hostname())
			if err == nil && (ip.IsLinkLocalUnicast() || ip.IsLoopback()) { // this machine's own service
				return nil, nil
			}
			return http.ProxyFromEnvironment(r)
		},
	}}
}

// Retrieve is for an older interface of the client.
func (k *keyring) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext gives the keys of the first source that has some.
func (k *keyring) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var failed []string
	for _, from := range k.sources {
		value, err := from.RetrieveWithCredContext(cc)
		if err == nil && (value.AccessKeyID == "" || value.SecretAccessKey == "") {
			err = errors.New("no keys")
		}
		if err != nil {
			failed = append(failed, from.name+": "+network.Printable(network.Bare(err).Error())) // the URL may hold a token
			continue
		}
		k.current = from
		k.mu.Lock()
		k.last = value
		k.mu.Unlock()
		return value, nil
	}
	err := fmt.Errorf("find credentials: %s", strings.Join(failed, "; "))
	if k.current != nil { // there were some before: the service that renews them may come back
		return credentials.Value{}, err
	}
	return credentials.Value{}, store.Mark(err, store.ErrDenied)
}

// IsExpired tells whether the keys must be got anew.
func (k *keyring) IsExpired() bool { return k.current == nil || k.current.IsExpired() }

// clean makes one line of a server's words, without the keys that it may have repeated.
func (k *keyring) clean(text string) string {
	k.mu.Lock()
	last := k.last
	k.mu.Unlock()
	for _, secret := range []string{last.AccessKeyID, last.SecretAccessKey, last.SessionToken} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[key]")
		}
	}
	for _, sign := range []string{"Signature=", "Credential=", "AWS4-HMAC"} {
		if strings.Contains(text, sign) {
			return "[not shown: it repeats the request's signature]"
		}
	}
	return network.Printable(text)
}
