package network

import (
	"errors"
	"fmt"
	"net"
	"net/url"
)

// Loopback tells whether a host is this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Endpoint describes the URLs of servers that a driver takes.
type Endpoint struct {
	// Example is one, and Form what they look like, for people.
	Example, Form string
	// Path tells which paths are fine beside "" and "/"; nil means none.
	Path func(path string) bool
}

// Parse reads the URL of a server. http is allowed for addresses of this machine only: it shows to whoever listens what is
// sent. Errors show no more of a text than its host, as somebody may have put a key there.
func (e Endpoint) Parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.User != nil:
		return nil, errors.New("the endpoint is no URL such as " + e.Example)
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "", u.RawQuery != "", u.ForceQuery, u.Fragment != "",
		u.Path != "" && u.Path != "/" && (e.Path == nil || !e.Path(u.Path)):
		return nil, errors.New("an endpoint is " + e.Form + ", and no more")
	case u.Scheme == "http" && !Loopback(u.Hostname()):
		return nil, fmt.Errorf("endpoint http://%s: http is for addresses of this machine only; want https", u.Host)
	}
	return u, nil
}
