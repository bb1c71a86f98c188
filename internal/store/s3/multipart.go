package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/parts"
)

const (
	// buffers is how many parts are in memory at most.
	buffers = 2
	// abortTime bounds the call that gives up an upload, which is made also when time is up for the Put.
	abortTime = 30 * time.Second
)

// inParts puts a large object, whose first part is read, and gives its size.
func (p *put) inParts(ctx context.Context, first []byte, cut *parts.Cutter) (size int64, err error) {
	// The completion decides; but when the object is there already, nothing need be sent.
	if _, err := p.head(ctx, p.key); err == nil {
		return 0, store.ErrExists
	}
	var upload string
	err = p.retry.Do(ctx, func() (err error) {
		upload, err = p.core.NewMultipartUpload(ctx, p.bucket, p.key, p.options())
		return p.explain(ctx, err)
	})
	if err != nil {
		return 0, fmt.Errorf("begin an upload: %w", err)
	}
	parts, size, err := p.send(ctx, upload, first, cut)
	if err == nil {
		err = p.complete(ctx, upload, parts)
	}
	if err != nil {
		return 0, errors.Join(err, p.abort(ctx, upload))
	}
	return size, nil
}

// send uploads all parts: while one is read, another is on its way. No call is under way any more when it returns.
func (p *put) send(ctx context.Context, upload string, first []byte, cut *parts.Cutter) (parts []minio.CompletePart, size int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group, ctx := errgroup.WithContext(ctx)
	free := make(chan []byte, buffers)
	for range buffers - 1 {
		free <- nil
	}
	var mu sync.Mutex // guards parts until all are sent
	part, last := first, false
	for number := 1; ; number++ {
		content := part
		size += int64(len(content))
		group.Go(func() error {
			done, err := p.sendPart(ctx, upload, number, content)
			if err != nil {
				return fmt.Errorf("send part %d: %w", number, err)
			}
			mu.Lock()
			defer mu.Unlock()
			parts = append(parts, done)
			free <- content
			return nil
		})
		if last {
			break
		}
		select {
		case buffer := <-free:
			part, last, err = cut.Next(ctx, buffer)
		case <-ctx.Done():
			err = context.Cause(ctx) // of a part that could not be sent, too
		}
		if err != nil {
			cancel(err)
			break
		}
	}
	if sendErr := group.Wait(); err == nil {
		err = sendErr
	}
	slices.SortFunc(parts, func(a, b minio.CompletePart) int { return a.PartNumber - b.PartNumber })
	return parts, size, err
}

// sendPart uploads one part until the server has it as it is here.
func (p *put) sendPart(ctx context.Context, upload string, number int, content []byte) (done minio.CompletePart, err error) {
	weak, strong := sums(content)
	err = p.retry.Do(ctx, func() error {
		part, err := p.core.PutObjectPart(ctx, p.bucket, p.key, upload, number, bytes.NewReader(content), int64(len(content)),
			minio.PutObjectPartOptions{Md5Base64: weak, Sha256Hex: strong, DisableContentSha256: true})
		done = minio.CompletePart{PartNumber: number, ETag: part.ETag}
		return p.explain(ctx, err)
	})
	return done, err
}

// complete makes the object of its parts appear, unless one of its name is there. An upload that is not there any more was
// completed by a call whose answer was lost, or by nobody: publish looks.
func (p *put) complete(ctx context.Context, upload string, parts []minio.CompletePart) error {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	err := p.publish(ctx, func() error {
		_, err := p.core.CompleteMultipartUpload(ctx, p.bucket, p.key, upload, parts, o)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("complete the upload: %w", err)
	}
	return err
}

// abort lets the server forget the parts of an upload.
func (p *put) abort(ctx context.Context, upload string) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), abortTime, errors.New("no answer came in time"))
	defer cancel()
	err := p.retry.Do(ctx, func() error { return p.abandon(ctx, p.key, upload) })
	if err != nil {
		return fmt.Errorf("give up the upload, whose parts are left: %w", err)
	}
	return nil
}

// abandon lets the server forget the parts of an upload, which may be gone already.
func (s *Store) abandon(ctx context.Context, key, upload string) error {
	err := s.explain(ctx, s.core.AbortMultipartUpload(ctx, s.bucket, key, upload))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
