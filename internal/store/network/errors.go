package network

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// mostMessage bounds what is repeated of a server's words, in bytes.
const mostMessage = 300

// Printable makes one line of a server's words, cut after 300 bytes.
func Printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if text = strings.Join(strings.Fields(text), " "); len(text) > mostMessage {
		text = strings.ToValidUTF8(text[:mostMessage], "") + "…"
	}
	return text
}

// Bare takes the URLs off an error: queries hold signatures, and give power over uploads.
func Bare(err error) error {
	for u, is := errors.AsType[*url.Error](err); is; u, is = errors.AsType[*url.Error](err) {
		err = u.Err
	}
	return err
}

// Hopeless tells whether a server that cannot be reached will not be at the next try: its certificate is not trusted, it does
// not speak TLS, or there is no such name.
func Hopeless(err error) bool {
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); is {
		return true
	}
	if _, is := errors.AsType[x509.UnknownAuthorityError](err); is {
		return true
	}
	if _, is := errors.AsType[tls.RecordHeaderError](err); is { // which http.Client makes an ErrSchemeMismatch of
		return true
	}
	dns, is := errors.AsType[*net.DNSError](err)
	return is && dns.IsNotFound || errors.Is(err, http.ErrSchemeMismatch)
}
