package gcs

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/parts"
)

// putID is the metadata that tells whose Put has made an object.
const putID = "holdfast-put"

// lockMode is the mode of retention that nobody can take back.
const lockMode = "Locked"

// put is one Put.
type put struct {
	*Store
	key, id     string
	retainUntil time.Time // zero for none; else whole seconds
}

// insertion is what an object is made with, as the API wants it.
type insertion struct {
	Name        string            `json:"name"`
	ContentType string            `json:"contentType"`
	CRC32C      string            `json:"crc32c,omitempty"` // of all content, if it is known
	Metadata    map[string]string `json:"metadata"`
	Retention   *retention        `json:"retention,omitempty"`
}

// Put makes an object. See store.Store.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	info, err := s.put(ctx, name, content, opts)
	if err != nil {
		return store.Object{}, fmt.Errorf("put object %q: %w", name, err)
	}
	return info.object(name), nil
}

func (s *Store) put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (info resource, err error) {
	key, err := s.key(name)
	if err != nil {
		return info, err
	}
	p := &put{Store: s, key: key, id: rand.Text()}
	if !opts.RetainUntil.IsZero() {
		if !opts.RetainUntil.After(time.Now()) {
			return info, store.Mark(fmt.Errorf("lock it until %s: that is over", opts.RetainUntil.UTC().Format(time.RFC3339)), store.ErrFinal)
		}
		// To whole seconds, upwards: the server must not make it shorter.
		p.retainUntil = opts.RetainUntil.Add(time.Second - time.Nanosecond).Truncate(time.Second).UTC()
		if err := s.checkLocks(ctx); err != nil {
			return info, err
		}
	}
	cut := parts.New(content, func(int) (int, error) { return s.chunk, nil })
	first, last, err := cut.Next(ctx, nil)
	if err != nil {
		return info, err
	}
	var sum uint32
	size := int64(len(first))
	if last {
		sum = crc32.Checksum(first, castagnoli())
		info, err = p.whole(ctx, first, encode(sum))
	} else {
		info, size, sum, err = p.inSession(ctx, first, cut)
	}
	if err != nil {
		return info, p.explainLock(err)
	}
	return info, p.confirm(ctx, info, size, encode(sum))
}

// castagnoli is the polynomial of CRC-32C; its table is made once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// encode writes a CRC-32C as the API does.
func encode(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

// insertion describes the object to be made.
func (p *put) insertion(sum string) ([]byte, error) {
	i := insertion{Name: p.key, ContentType: "application/octet-stream", CRC32C: sum, Metadata: map[string]string{putID: p.id}}
	if !p.retainUntil.IsZero() {
		i.Retention = &retention{Mode: lockMode, RetainUntilTime: p.retainUntil}
	}
	return json.Marshal(i)
}

// insert is the call that makes an object, or begins to.
func (p *put) insert(uploadType, contentType string, body ...[]byte) request {
	return request{
		method: http.MethodPost, path: "/upload" + p.bucketPath("/o"),
		query:  url.Values{"uploadType": {uploadType}, "ifGenerationMatch": {"0"}},
		header: http.Header{"Content-Type": {contentType}}, body: body,
	}
}

// whole puts a small object by one call. That is made until it works.
func (p *put) whole(ctx context.Context, content []byte, sum string) (info resource, err error) {
	about, err := p.insertion(sum)
	if err != nil {
		return info, err
	}
	boundary := rand.Text() + rand.Text() // nobody has it in his content
	head := fmt.Sprintf("--%s\r\nContent-Type: application/json\r\n\r\n%s\r\n--%s\r\nContent-Type: application/octet-stream\r\n\r\n", boundary, about, boundary)
	call := p.insert("multipart", "multipart/related; boundary="+boundary, []byte(head), content, []byte("\r\n--"+boundary+"--\r\n"))
	doubt := false // a call is in doubt when it failed and may have taken effect
	err = p.retry.Do(ctx, func() error {
		info = resource{}
		err := p.ask(ctx, call, &info)
		doubt = doubt || err != nil && !store.Refused(err)
		return err
	})
	if err != nil {
		return p.settle(ctx, err, doubt)
	}
	return info, nil
}

// settle finds out what became of an object whose Put ended with an error. The answer to a call that is in doubt did not say.
func (p *put) settle(ctx context.Context, err error, doubt bool) (info resource, _ error) {
	exists := errors.Is(err, store.ErrExists)
	if ctx.Err() != nil || !doubt && !exists {
		return info, err
	}
	lookErr := p.retry.Do(ctx, func() (err error) {
		info, err = p.head(ctx, p.key)
		return err
	})
	switch {
	case lookErr == nil && info.Metadata[putID] == p.id:
		return info, nil
	case lookErr == nil:
		return info, store.ErrExists
	case errors.Is(lookErr, store.ErrNotFound) && exists: // a condition of somebody else's, such as a policy; or it was deleted
		return info, fmt.Errorf("no such object is there, but %s", err.Error())
	case errors.Is(lookErr, store.ErrNotFound):
		return info, err
	case exists && !doubt && errors.Is(lookErr, store.ErrDenied): // who may write only
		return info, store.ErrExists
	}
	return info, fmt.Errorf("look whether it is there after all: %w", lookErr)
}

// confirm compares what the server has now with what was sent. What came to harm is deleted again, as it is ours.
func (p *put) confirm(ctx context.Context, info resource, size int64, sum string) error {
	var wrong error
	switch {
	case info.Metadata[putID] != p.id:
		return store.Mark(errors.New("another object is in its place: the store does not keep writers apart"), store.ErrFinal)
	case info.Size != size:
		wrong = store.Mark(fmt.Errorf("%d bytes were put, and the store has %d", size, info.Size), store.ErrFinal)
	case info.CRC32C != sum:
		wrong = store.Mark(errors.New("the store has other bytes than were put"), store.ErrFinal)
	case p.retainUntil.IsZero():
		return nil
	case info.Retention == nil || info.Retention.Mode != lockMode || info.Retention.RetainUntilTime.Before(p.retainUntil):
		wrong = fmt.Errorf("lock it: the store took the object, and did not lock it: %w", store.ErrUnsupported)
	default:
		return nil
	}
	err := p.retry.Do(ctx, func() error { return p.remove(ctx, p.key, info.Generation) })
	if err != nil {
		return store.Mark(fmt.Errorf("%s; and it is there: delete it: %s", wrong.Error(), err.Error()), store.ErrFinal)
	}
	return wrong
}

// checkLocks refuses a bucket that does not lock objects, before anything is put there.
func (s *Store) checkLocks(ctx context.Context) error {
	s.mu.Lock()
	known := s.locks
	s.mu.Unlock()
	if known {
		return nil
	}
	var bucket struct{ ObjectRetention struct{ Mode string } }
	err := s.retry.Do(ctx, func() error {
		return s.ask(ctx, request{method: http.MethodGet, path: s.bucketPath(""), query: url.Values{"fields": {"objectRetention"}}}, &bucket)
	})
	switch {
	case err != nil:
		return fmt.Errorf("look whether the bucket locks objects: %w", err)
	case bucket.ObjectRetention.Mode != "Enabled":
		return fmt.Errorf("lock it: the bucket does not lock objects: %w", store.ErrUnsupported)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks = true
	return nil
}

// explainLock tells a lock that the server does not grant from other things that it does not understand. It has no reason of
// its own for that.
func (p *put) explainLock(err error) error {
	a, is := errors.AsType[*answer](err)
	if is && !p.retainUntil.IsZero() && a.status == http.StatusBadRequest && strings.Contains(strings.ToLower(a.message), "retention") {
		return fmt.Errorf("lock it: %s: %w", err.Error(), store.ErrUnsupported)
	}
	return err
}
