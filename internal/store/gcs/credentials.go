package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

const (
	// scope bounds what a token can be used for, should it be stolen: content, no rights.
	scope = "https://www.googleapis.com/auth/devstorage.read_write"
	// tokenTime bounds the calls that get a token.
	tokenTime = 30 * time.Second
	// tokenMargin is how long before its end a token is replaced, so that it lasts until the server looks at it.
	tokenMargin = time.Minute
)

// keyring gets tokens and keeps the last one for as long as it is good.
type keyring struct {
	file      string // "" means where Google's own tools look
	none      bool   // no credentials at all
	transport http.RoundTripper

	turn  chan struct{} // holds one element while somebody uses the fields below
	token *oauth2.Token
	had   bool // there was a token at some time
}

func newKeyring(file string, emulator bool, transport http.RoundTripper) *keyring {
	return &keyring{file: file, none: file == "" && emulator, transport: transport, turn: make(chan struct{}, 1)}
}

// get gives a token, or "" where none is wanted, and whether it was made for this call.
func (k *keyring) get(ctx context.Context) (token string, isNew bool, err error) {
	if k.none {
		return "", true, nil
	}
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return "", false, context.Cause(ctx)
	}
	if t := k.token; t != nil && (t.Expiry.IsZero() || time.Until(t.Expiry) > tokenMargin) {
		return t.AccessToken, false, nil
	}
	t, err := k.fetch(ctx)
	if err != nil {
		return "", false, k.explain(ctx, err)
	}
	k.token, k.had = t, true
	return t.AccessToken, true, nil
}

// forget drops a token that the server does not take.
func (k *keyring) forget(ctx context.Context, token string) {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done(): // the next call finds out
		return
	}
	if k.token != nil && k.token.AccessToken == token {
		k.token = nil
	}
}

// within makes requests end with a context: some of the calls that get a token know of none.
type within struct {
	ctx context.Context
	http.RoundTripper
}

func (w within) RoundTrip(r *http.Request) (*http.Response, error) {
	return w.RoundTripper.RoundTrip(r.WithContext(w.ctx))
}

func (k *keyring) fetch(ctx context.Context) (*oauth2.Token, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, tokenTime, errors.New("no answer came in time"))
	defer cancel()
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: within{ctx, k.transport}})
	found, err := k.find(ctx)
	if err != nil {
		return nil, err
	}
	token, err := found.TokenSource.Token()
	if err == nil && token.AccessToken == "" {
		err = errors.New("there is no token in the answer")
	}
	return token, err
}

// find reads credentials.
func (k *keyring) find(ctx context.Context) (*google.Credentials, error) {
	if k.file == "" {
		found, err := google.FindDefaultCredentials(ctx, scope)
		if err == nil && found.JSON != nil {
			_, err = kindOf(found.JSON)
		}
		return found, err
	}
	text, err := os.ReadFile(k.file)
	if err != nil {
		return nil, err
	}
	kind, err := kindOf(text)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", k.file, err)
	}
	found, err := google.CredentialsFromJSONWithType(ctx, text, kind, scope)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", k.file, err)
	}
	return found, nil
}

// kindOf tells what kind of credentials a file holds. It refuses the other file that Google calls credentials, which names an
// application and needs a person.
func kindOf(text []byte) (google.CredentialsType, error) {
	var file struct {
		Type           google.CredentialsType
		Web, Installed json.RawMessage
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return "", errors.New("it is not JSON")
	}
	if file.Type == "" || file.Web != nil || file.Installed != nil {
		return "", errors.New("it holds no credentials: it has no type, such as service_account")
	}
	return file.Type, nil
}

// explain puts errors of finding credentials into the store's words.
func (k *keyring) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if refusal, is := errors.AsType[*oauth2.RetrieveError](err); is {
		status := 0
		if refusal.Response != nil {
			status = refusal.Response.StatusCode
		}
		told := fmt.Errorf("get a token: the service says %s (%d)", discreet(refusal.ErrorCode+" "+refusal.ErrorDescription, nil), status)
		if status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden {
			return store.Mark(told, store.ErrDenied)
		}
		return told
	}
	err = network.Bare(err)
	told := fmt.Errorf("find credentials: %s", discreet(err.Error(), nil))
	_, file := errors.AsType[*fs.PathError](err)
	if _, onWay := errors.AsType[net.Error](err); onWay && !file && !network.Hopeless(err) {
		return told
	}
	if k.had { // they may come back: a file that is being replaced
		return told
	}
	return store.Mark(told, store.ErrDenied)
}
