package gcs

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/parts"
)

// cancelTime bounds the call that ends a session, which is made also when time is up for the Put.
const cancelTime = 30 * time.Second

// statusCancelled is the server's answer to the end of a session.
const statusCancelled = 499

// hashHeader goes with the last call of a session, and only that.
const hashHeader = "X-Goog-Hash"

// session is a resumable upload. It is for one goroutine at a time.
type session struct {
	*put
	path  string // where chunks go; with the query it gives power over the upload
	query url.Values

	// taken is how many bytes the server has acknowledged.
	taken int64
	// unsure is set while it is not known what became of the last chunk.
	unsure bool
	// finished is set once the server says that the object is there, and info is what it says of it.
	finished bool
	info     resource
	// doubt is set when a call failed that may have let the object appear all the same.
	doubt bool
	// early is set when the server made an object of a part of the content.
	early bool
	// forgotten is set when the server does not know the session any more.
	forgotten bool
}

var (
	errForgotten = errors.New("the store does not know the upload any more")
	errIdle      = errors.New("the store takes nothing of the upload")
)

// inSession puts a large object, whose first chunk is read, and gives its size and sum.
func (p *put) inSession(ctx context.Context, first []byte, cut *parts.Cutter) (info resource, size int64, sum uint32, err error) {
	// The last chunk decides; but when the object is there already, nothing need be sent.
	if _, err := p.head(ctx, p.key); err == nil {
		return info, 0, 0, store.ErrExists
	}
	s, err := p.begin(ctx)
	if err != nil {
		info, err = p.settle(ctx, fmt.Errorf("begin an upload: %w", err), false)
		return info, 0, 0, err
	}
	size, sum, err = s.sendAll(ctx, first, cut)
	if err == nil {
		return s.info, size, sum, nil
	}
	// When the session has ended, nothing can appear any more, so that a look tells for good.
	cancelErr := s.cancel(ctx)
	if s.early {
		return info, 0, 0, errors.Join(err, cancelErr, p.removeOurs(ctx))
	}
	if info, err = p.settle(ctx, err, s.doubt); err != nil {
		return info, 0, 0, errors.Join(err, cancelErr)
	}
	return info, size, sum, nil
}

// removeOurs deletes an object that this Put has made and should not have.
func (p *put) removeOurs(ctx context.Context) error {
	err := p.retry.Do(ctx, func() error {
		info, err := p.head(ctx, p.key)
		if err != nil || info.Metadata[putID] != p.id {
			return err
		}
		return p.remove(ctx, p.key, info.Generation)
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete what is there of it: %w", err)
	}
	return nil
}

// begin opens a session.
func (p *put) begin(ctx context.Context) (*session, error) {
	about, err := p.insertion("")
	if err != nil {
		return nil, err
	}
	call := p.insert("resumable", "application/json", about)
	call.header.Set("X-Upload-Content-Type", "application/octet-stream")
	var location string
	err = p.retry.Do(ctx, func() error {
		response, err := p.do(ctx, call, http.StatusOK, http.StatusCreated)
		if err != nil {
			return err
		}
		location = response.Header.Get("Location")
		drain(response)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The host is not taken over: tokens go to the one that was named only.
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.RawQuery == "" {
		return nil, store.Mark(errors.New("the store does not say where to send it"), store.ErrFinal) // not shown: it gives power
	}
	return &session{put: p, path: u.EscapedPath(), query: u.Query()}, nil
}

// drain reads an answer to its end, so that the connection can be used again.
func drain(response *http.Response) {
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, mostRefusal)) // its status has said all
	_ = response.Body.Close()
}

// sendAll sends the first chunk and all that follow: while one is on its way, the next is read. No call is under way any more
// when it returns.
func (s *session) sendAll(ctx context.Context, first []byte, cut *parts.Cutter) (size int64, sum uint32, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chunk, last := first, false
	var spare []byte
	for {
		sum = crc32.Update(sum, castagnoli(), chunk)
		at := size
		size += int64(len(chunk))
		if last {
			return size, sum, s.sendChunk(ctx, chunk, at, encode(sum))
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			if err := s.sendChunk(ctx, chunk, at, ""); err != nil {
				cancel(err)
			}
		}()
		next, nextLast, err := cut.Next(ctx, spare)
		if err != nil {
			cancel(err)
		}
		<-sent
		if ctx.Err() != nil { // the first of what went wrong
			return size, sum, context.Cause(ctx)
		}
		chunk, spare, last = next, chunk, nextLast
	}
}

// sendChunk sends the chunk that begins at the offset at until the server has it all. The last one comes with the
// sum of all content, which the server compares before it makes the object appear.
func (s *session) sendChunk(ctx context.Context, chunk []byte, at int64, sum string) error {
	end, total := at+int64(len(chunk)), "*"
	last := sum != ""
	if last {
		total = strconv.FormatInt(end, 10)
	}
	// write sends what the server lacks, or asks what it has.
	write := func(asking bool) error {
		part, span := chunk[s.taken-at:], fmt.Sprintf("bytes %d-%d/%s", s.taken, end-1, total)
		if asking || len(part) == 0 {
			part, span = nil, "bytes */"+total
		}
		r := request{method: http.MethodPut, path: s.path, query: s.query, header: http.Header{"Content-Range": {span}}, body: [][]byte{part}}
		if last {
			r.header.Set(hashHeader, "crc32c="+sum)
		}
		s.unsure = true
		err := s.accept(ctx, r, at, end)
		if last && err != nil && (s.forgotten || !store.Refused(err)) {
			s.doubt = true
		}
		return err
	}
	err := s.retry.Do(ctx, func() error {
		if s.unsure {
			if err := write(true); err != nil {
				return err
			}
		}
		for !s.finished && !s.early && (last || s.taken < end) {
			before := s.taken
			if err := write(false); err != nil {
				return err
			}
			if !s.finished && !s.early && s.taken <= before {
				return errIdle
			}
		}
		return nil
	})
	switch {
	case s.forgotten:
		return errForgotten
	case s.early:
		return store.Mark(errors.New("the store ends the upload before its content does"), store.ErrFinal)
	case err != nil:
		return fmt.Errorf("send bytes %d to %d: %w", at, end, err)
	}
	return nil
}

// accept makes a call of the session, and takes note of how much of the content the server has afterwards.
func (s *session) accept(ctx context.Context, r request, at, end int64) error {
	response, err := s.do(ctx, r, http.StatusPermanentRedirect, http.StatusOK, http.StatusCreated)
	if hasStatus(err, http.StatusNotFound, http.StatusGone) {
		s.forgotten = true
		return store.Mark(errForgotten, store.ErrFinal) // of this session, not of the object
	}
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusPermanentRedirect {
		if r.header.Get(hashHeader) == "" {
			s.early = true
			drain(response)
			return nil
		}
		s.info = resource{}
		if err := s.read(ctx, response, &s.info); err != nil {
			return err
		}
		s.unsure, s.finished = false, true
		return nil
	}
	has := response.Header.Get("Range")
	drain(response)
	taken := int64(0) // nothing yet, when it does not say
	if has != "" {
		to, is := strings.CutPrefix(has, "bytes=0-")
		n, err := strconv.ParseInt(to, 10, 64)
		if !is || err != nil {
			return store.Mark(fmt.Errorf("the store has %q of the upload, which means nothing", discreet(has, nil)), store.ErrFinal)
		}
		taken = n + 1
	}
	if taken < at || taken > end {
		return store.Mark(fmt.Errorf("the store has %d bytes of the upload, where it should have %d to %d", taken, at, end), store.ErrFinal)
	}
	s.taken, s.unsure = taken, false
	return nil
}

// cancel lets the server forget the session, which it may have done already.
func (s *session) cancel(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), cancelTime, errors.New("no answer came in time"))
	defer cancel()
	err := s.retry.Do(ctx, func() error {
		response, err := s.do(ctx, request{method: http.MethodDelete, path: s.path, query: s.query},
			statusCancelled, http.StatusOK, http.StatusNoContent, http.StatusNotFound, http.StatusGone)
		if err == nil {
			drain(response)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("give up the upload, which the store forgets in a week: %w", err)
	}
	return nil
}
