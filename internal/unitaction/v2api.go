package unitaction

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

var (
	// errNoV2API means that an etcd answers and serves no v2 API.
	errNoV2API = errors.New("it runs without --enable-v2")
	// errV2Login means that the v2 store has users of its own and does not let us read.
	errV2Login = errors.New("its v2 store asks for a login")
)

// v2API is the HTTP API of the v2 store of one etcd. The client packages of the etcd that Holdfast is built with have none.
type v2API struct {
	base   string // a client URL
	client *http.Client
}

// liveV2 is the v2 API of the unit's own member.
func (u *Unit) liveV2() v2API {
	return newV2API(u.Record.ClientURLs[0], &http.Transport{TLSClientConfig: u.TLS})
}

// socketV2 is the v2 API of an etcd that listens on a Unix socket.
func socketV2(socket string) v2API {
	return newV2API("http://scratch", &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}})
}

func newV2API(base string, transport *http.Transport) v2API {
	transport.DisableKeepAlives = true // One question a time; no connection is left behind.
	return v2API{base: base, client: &http.Client{Transport: transport}}
}

// served asks whether there is a v2 API; the error is errNoV2API when there is none.
func (a v2API) served(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	answer, err := a.ask(ctx, http.MethodHead, "/v2/keys")
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// confirm asks for a key that is not there by way of raft: the question becomes an entry of the log, with the name of the
// key in it, that changes nothing. When it returns, the entry is committed and so is everything before it.
func (a v2API) confirm(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	answer, err := a.ask(ctx, http.MethodGet, "/v2/keys/"+name+"?quorum=true")
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// countKeys counts the keys that the API lists, without folders. Keys below a name that begins with "_" are hidden and not
// counted. It waits for an etcd that listens and does not serve yet.
func (a v2API) countKeys(ctx context.Context) (_ int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, v2ReadTimeout)
	defer cancel()
	answer, err := a.ask(ctx, http.MethodGet, "/v2/keys?recursive=true")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	count, err := countV2Nodes(answer.Body)
	if err != nil {
		return 0, fmt.Errorf("read the v2 keys: %w", err)
	}
	return count, nil
}

// v2ReadTimeout bounds reading the whole v2 store, which etcd keeps in memory.
const v2ReadTimeout = time.Minute

// ask gives an answer whose body the caller closes. What is in a body never gets into an error.
func (a v2API) ask(ctx context.Context, method, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, a.base+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := a.client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("ask for the v2 keys: %w", err)
	}
	// Every answer of the store itself has the index of the store.
	fromStore := answer.Header.Get("X-Etcd-Index") != ""
	switch answer.StatusCode {
	case http.StatusOK:
		return answer, nil
	case http.StatusNotFound:
		if fromStore {
			return answer, nil // Only the key is not there.
		}
		err = errNoV2API
	case http.StatusUnauthorized, http.StatusForbidden:
		err = errV2Login
	default:
		err = fmt.Errorf("ask for the v2 keys: the answer is %s", answer.Status)
	}
	return nil, errors.Join(err, answer.Body.Close())
}

// countV2Nodes counts the keys in the answer to a recursive get. The answer is one object, the root is one in it, and each
// folder and key is one more; "dir":true is the only truth value there is, and each folder has it, the root too.
func countV2Nodes(r io.Reader) (int64, error) {
	decoder := json.NewDecoder(r)
	var objects, folders, open int64
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		switch token {
		case json.Delim('{'):
			objects++
			open++
		case json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		case true:
			folders++
		}
	}
	if open > 0 {
		return 0, io.ErrUnexpectedEOF // The decoder takes a cut between two tokens for an end.
	}
	if objects < 2 || folders < 1 {
		return 0, errors.New("it is not the root of the store")
	}
	const answer = 1
	return objects - answer - folders, nil
}
