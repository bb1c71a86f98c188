package azure

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/parts"
)

// buffers is how many blocks are in memory at most.
const buffers = 3

// inBlocks puts a large object, whose first block is read, and gives its size. Blocks of a Put that fails are left to the
// service: there is no call that gives them up.
func (p *put) inBlocks(ctx context.Context, first []byte, cut *parts.Cutter) (size int64, err error) {
	// The commit decides; but when the object is there already, nothing need be sent.
	if _, err := p.head(ctx, p.key); err == nil {
		return 0, store.ErrExists
	}
	count, size, err := p.send(ctx, first, cut)
	if inTheWay(err) {
		if _, lookErr := p.look(ctx); lookErr == nil {
			return 0, store.ErrExists
		}
	}
	if err != nil {
		return 0, err
	}
	return size, p.commit(ctx, count)
}

// blockID names a block: by its Put, so that writers of one name do not mix theirs, and with a length that is the same for
// all.
func (p *put) blockID(number int) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%05d", p.id, number))
}

// send stages all blocks: while one is read, others are on their way. No call is under way any more when it returns.
func (p *put) send(ctx context.Context, first []byte, cut *parts.Cutter) (count int, size int64, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	group, ctx := errgroup.WithContext(ctx)
	free := make(chan []byte, buffers)
	for range buffers - 1 {
		free <- nil
	}
	block, last := first, false
	for number := 1; ; number++ {
		content := block
		size += int64(len(content))
		group.Go(func() error {
			if err := p.stage(ctx, number, content); err != nil {
				return fmt.Errorf("send block %d: %w", number, err)
			}
			free <- content
			return nil
		})
		if count = number; last {
			break
		}
		select {
		case buffer := <-free:
			block, last, err = cut.Next(ctx, buffer)
		case <-ctx.Done():
			err = context.Cause(ctx) // of a block that could not be sent, too
		}
		if err != nil {
			cancel(err)
			break
		}
	}
	if sendErr := group.Wait(); err == nil {
		err = sendErr
	}
	return count, size, err
}

// stage sends one block until the service has it as it is here.
func (p *put) stage(ctx context.Context, number int, content []byte) error {
	o := &blockblob.StageBlockOptions{TransactionalValidation: checked(content)}
	return p.retry.Do(ctx, func() error {
		_, err := p.blob(p.key).StageBlock(ctx, p.blockID(number), reader(content), o)
		return p.explain(ctx, err)
	})
}

// commit makes the object of its blocks appear, unless one of its name is there.
func (p *put) commit(ctx context.Context, count int) error {
	ids := make([]string, count)
	for i := range ids {
		ids[i] = p.blockID(i + 1)
	}
	o := &blockblob.CommitBlockListOptions{Metadata: p.metadata(), AccessConditions: onlyIfAbsent()}
	o.ImmutabilityPolicyMode, o.ImmutabilityPolicyExpiryTime = p.policy()
	err := p.publish(ctx, func() error {
		_, err := p.blob(p.key).CommitBlockList(ctx, ids, o)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("commit the blocks: %w", err)
	}
	return err
}
