package gcs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// mostAnswer bounds what is read of an answer that is not content, in bytes. A page of a listing has a thousand names.
const mostAnswer = 32 << 20

// request is one call of the JSON API. It can be made again.
type request struct {
	method string
	path   string // begins with a slash, and is escaped
	query  url.Values
	header http.Header
	body   [][]byte // one after the other
}

// resource is an object as the API tells of it.
type resource struct {
	Name        string            `json:"name"`
	Size        int64             `json:"size,string"`
	Generation  int64             `json:"generation,string"`
	TimeCreated time.Time         `json:"timeCreated"`
	CRC32C      string            `json:"crc32c"`
	Metadata    map[string]string `json:"metadata"`

	// What may forbid to delete it. RetentionExpirationTime comes from a policy of the bucket.
	Retention               *retention `json:"retention"`
	RetentionExpirationTime *time.Time `json:"retentionExpirationTime"`
	TemporaryHold           bool       `json:"temporaryHold"`
	EventBasedHold          bool       `json:"eventBasedHold"`
}

type retention struct {
	Mode            string    `json:"mode"`
	RetainUntilTime time.Time `json:"retainUntilTime"`
}

func (r resource) object(name string) store.Object {
	return store.Object{Name: name, Size: r.Size, Modified: r.TimeCreated.UTC()}
}

// bucketPath is the path of the bucket, and what of it is asked for.
func (s *Store) bucketPath(below string) string { return "/storage/v1/b/" + s.bucket + below }

// objectPath is the path of an object.
func (s *Store) objectPath(key string) string { return s.bucketPath("/o/" + url.PathEscape(key)) }

// do makes a call, and gives the answer if its status is one of good; its body is the caller's to close. Any other outcome is
// an error in the store's words.
func (s *Store) do(ctx context.Context, r request, good ...int) (*http.Response, error) {
	for try := 1; ; try++ {
		token, isNew, err := s.keys.get(ctx)
		if err != nil {
			return nil, err
		}
		response, err := s.send(ctx, r, token)
		hide := []string{token, r.query.Get("upload_id")}
		if err != nil {
			return nil, s.explain(ctx, err, hide)
		}
		if slices.Contains(good, response.StatusCode) {
			return response, nil
		}
		refusal := s.refusal(ctx, response, hide)
		if response.StatusCode == http.StatusUnauthorized && !isNew && try == 1 { // it was withdrawn, or our clock is slow
			s.keys.forget(ctx, token)
			continue
		}
		return nil, refusal
	}
}

func (s *Store) send(ctx context.Context, r request, token string) (*http.Response, error) {
	target := s.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	body := func() (io.ReadCloser, error) {
		readers := make([]io.Reader, len(r.body))
		for i, part := range r.body {
			readers[i] = bytes.NewReader(part)
		}
		return io.NopCloser(io.MultiReader(readers...)), nil
	}
	size := 0
	for _, part := range r.body {
		size += len(part)
	}
	call, err := http.NewRequestWithContext(ctx, r.method, target, http.NoBody)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		call.ContentLength, call.GetBody = int64(size), body
		call.Body, _ = body() // it cannot fail
	}
	for name, values := range r.header {
		call.Header[name] = values
	}
	call.Header.Set("User-Agent", "holdfast")
	if token != "" {
		call.Header.Set("Authorization", "Bearer "+token)
	}
	return s.transport.RoundTrip(call) // not by a client: it would follow a redirect, and 308 means something else here
}

// ask makes a call and reads its answer.
func (s *Store) ask(ctx context.Context, r request, answer any) error {
	response, err := s.do(ctx, r, http.StatusOK, http.StatusCreated)
	if err != nil {
		return err
	}
	return s.read(ctx, response, answer)
}

// read reads an answer, and closes it.
func (s *Store) read(ctx context.Context, response *http.Response, answer any) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, mostAnswer))
	_ = response.Body.Close() // all of it was read, or it is broken
	if err != nil {
		return s.explain(ctx, err, nil)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("the answer of %s is not what was expected", s.host) // not shown: nobody knows what it is
	}
	return nil
}

// head looks at an object.
func (s *Store) head(ctx context.Context, key string) (info resource, err error) {
	err = s.ask(ctx, request{method: http.MethodGet, path: s.objectPath(key)}, &info)
	return info, err
}
