package azure

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/parts"
)

// putID is the metadata that tells whose Put has made an object. Its names are identifiers, in which a hyphen has no place.
const putID = "holdfast_put"

// put is one Put.
type put struct {
	*Store
	key, id     string
	retainUntil time.Time
}

// Put makes an object. See store.Store.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	i, err := s.put(ctx, name, content, opts)
	if err != nil {
		return store.Object{}, fmt.Errorf("put object %q: %w", name, err)
	}
	return store.Object{Name: name, Size: i.size, Modified: i.modified}, nil
}

func (s *Store) put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (i info, err error) {
	key, err := s.key(name)
	if err != nil {
		return i, err
	}
	p := &put{Store: s, key: key, id: rand.Text()}
	if until := opts.RetainUntil; !until.IsZero() {
		if !until.After(time.Now()) {
			return i, store.Mark(fmt.Errorf("lock it until %s: that is over", until.UTC().Format(time.RFC3339)), store.ErrFinal)
		}
		// The service counts in seconds, and a lock must not be shorter than was asked for.
		if p.retainUntil = until.UTC().Truncate(time.Second); p.retainUntil.Before(until) {
			p.retainUntil = p.retainUntil.Add(time.Second)
		}
		if err := s.checkLocks(ctx); err != nil {
			return i, err
		}
	}
	cut := parts.New(content, s.sizeOf)
	first, last, err := cut.Next(ctx, nil)
	if err != nil {
		return i, err
	}
	size := int64(len(first))
	if last {
		err = p.whole(ctx, first)
	} else {
		size, err = p.inBlocks(ctx, first, cut)
	}
	if err != nil {
		return i, err
	}
	return p.confirm(ctx, size)
}

// What an object is made with, by either call.
func (p *put) metadata() map[string]*string { return map[string]*string{putID: &p.id} }

func onlyIfAbsent() *blob.AccessConditions {
	whatever := azcore.ETagAny
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: &whatever}}
}

func (p *put) policy() (mode *blob.ImmutabilityPolicySetting, until *time.Time) {
	if p.retainUntil.IsZero() {
		return nil, nil
	}
	locked := blob.ImmutabilityPolicySettingLocked
	return &locked, &p.retainUntil
}

// reader gives content to the client. checked is what the service compares it with.
func reader(content []byte) io.ReadSeekCloser { return streaming.NopCloser(bytes.NewReader(content)) }

func checked(content []byte) blob.TransferValidationType {
	sum := md5.Sum(content)
	return blob.TransferValidationTypeMD5(sum[:])
}

// errUnseen means that the service says of a name that it is taken, and that nothing is there.
var errUnseen = store.Mark(errors.New("the store says that it exists, and does not have it"), store.ErrExists)

// whole puts a small object by one call. Where a Put was killed, its blocks are left at the name, and some servers (Azurite)
// take them for an object, but for a commit of blocks.
func (p *put) whole(ctx context.Context, content []byte) error {
	o := &blockblob.UploadOptions{Metadata: p.metadata(), AccessConditions: onlyIfAbsent(), TransactionalValidation: checked(content)}
	o.ImmutabilityPolicyMode, o.ImmutabilityPolicyExpiryTime = p.policy()
	err := p.publish(ctx, func() error {
		_, err := p.blob(p.key).Upload(ctx, reader(content), o)
		return err
	})
	if errors.Is(err, errUnseen) {
		if err := p.stage(ctx, 1, content); err != nil {
			return err
		}
		return p.commit(ctx, 1)
	}
	return err
}

// publish makes the call that lets the object appear until it works, and finds out what became of it when the service does
// not say.
func (p *put) publish(ctx context.Context, call func() error) error {
	doubts := 0         // a call is in doubt when it failed and may have taken effect
	var displaced error // somebody else's object is in the way, or was
	err := p.retry.Do(ctx, func() error {
		err := p.explain(ctx, call())
		if inTheWay(err) {
			displaced = err
			return nil
		}
		if err != nil && !store.Refused(err) {
			doubts++
		}
		return err
	})
	if err == nil {
		err = displaced
	}
	exists := errors.Is(err, store.ErrExists)
	if err == nil || ctx.Err() != nil || doubts == 0 && !exists && displaced == nil {
		return err
	}
	i, lookErr := p.look(ctx)
	switch {
	case lookErr == nil && i.put == p.id:
		return nil
	case exists && doubts == 0 && errors.Is(lookErr, store.ErrNotFound):
		return errUnseen
	case lookErr == nil, exists && (doubts == 0 || errors.Is(lookErr, store.ErrNotFound)):
		return store.ErrExists
	case errors.Is(lookErr, store.ErrNotFound):
		return err
	}
	return fmt.Errorf("look whether it is there after all: %w", lookErr)
}

// inTheWay tells whether a refusal may come from an object that somebody else has put: one that took our blocks, or that the
// service guards before it looks at the condition of our call.
func inTheWay(err error) bool {
	return isAnswer(err, bloberror.InvalidBlockList, bloberror.BlobImmutableDueToPolicy, bloberror.LeaseIDMissing, bloberror.InvalidBlobType)
}

// look asks for the object until the service answers.
func (p *put) look(ctx context.Context) (i info, err error) {
	err = p.retry.Do(ctx, func() error {
		i, err = p.head(ctx, p.key)
		return err
	})
	return i, err
}

var errGone = errors.New("the store took the object, and does not have it")

// confirm looks at what the service has now. A server that needs a moment to see its own object is given that.
func (p *put) confirm(ctx context.Context, size int64) (i info, err error) {
	err = p.retry.Do(ctx, func() error {
		if i, err = p.head(ctx, p.key); errors.Is(err, store.ErrNotFound) {
			return errGone
		}
		return err
	})
	if err != nil {
		return i, fmt.Errorf("look at it afterwards: %w", err)
	}
	final := func(format string, args ...any) error { return store.Mark(fmt.Errorf(format, args...), store.ErrFinal) }
	switch {
	case i.put != p.id:
		return i, final("another object is in its place: the store does not keep writers apart")
	case i.size != size:
		return i, final("%d bytes were put, and the store has %d", size, i.size)
	case !p.retainUntil.IsZero() && (!i.locked || i.until.Before(p.retainUntil)):
		return i, final("the store took it, and has not locked it until %s", p.retainUntil.Format(time.RFC3339))
	}
	return i, nil
}
