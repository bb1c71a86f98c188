package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/store"
)

const (
	// partSize is how much is written and synced at once, in bytes: enough that the syncs cost little, and twice as much as
	// a Put may hold.
	partSize = 16 << 20
	// firstRead is how much memory is taken before it is known whether an object is small: most are manifests.
	firstRead = 64 << 10
)

// put is one Put.
type put struct {
	*Store
	name, temporary string // below the folder of the store

	// conn and file are what is written to; nil when there is none. written is how much of it is safe, in bytes.
	conn    *conn
	file    *sftp.File
	written int64
	// modified is when the last of it was written, by the server's clock.
	modified time.Time
	// begun tells that the temporary file may be there.
	begun bool
	// again tells that the folders were made a second time.
	again bool
}

// Put makes an object. See store.Store. After an error it has five seconds to clean up, which it only needs when the server
// does not answer.
func (s *Store) Put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (store.Object, error) {
	object, err := s.put(ctx, name, content, opts)
	if err != nil {
		return store.Object{}, fmt.Errorf("put object %q: %w", name, err)
	}
	return object, nil
}

func (s *Store) put(ctx context.Context, name string, content io.Reader, opts store.PutOptions) (object store.Object, err error) {
	if err := store.CheckName(name); err != nil {
		return object, err
	}
	if !opts.RetainUntil.IsZero() {
		return object, fmt.Errorf("lock it: %w", store.ErrUnsupported)
	}
	p := &put{Store: s, name: name, temporary: path.Join(temporary, path.Base(name)+"-"+rand.Text())}
	if err := s.options.Retry.Do(ctx, func() error { return p.prepare(ctx) }); err != nil {
		return object, err
	}
	late, stop := grace(ctx)
	defer stop()
	defer p.cleanUp(late)
	if err := p.write(ctx, content); err != nil {
		return object, err
	}
	if err := p.publish(ctx, late); err != nil {
		return object, err
	}
	return store.Object{Name: name, Size: p.written, Modified: p.modified.UTC()}, nil
}

// prepare does all that can refuse before the content is read.
func (p *put) prepare(ctx context.Context) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.release()
	for _, folder := range []string{temporary, path.Dir(p.name)} {
		if err := c.makeFolder(ctx, folder); err != nil {
			return fmt.Errorf("make folder %q: %w", folder, absent(err))
		}
	}
	// A writer that is late need not write anything; publish decides.
	if err := p.look(ctx, c); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if !c.links {
		return c.checkRename(ctx)
	}
	return nil
}

// absent is for steps of a Put after which "not found" would not be about the object.
func absent(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return store.Mark(errors.New("the server says that there is no such file or folder"), store.ErrFinal)
	}
	return err
}

// write brings the content into the temporary file. It reads a part while the one before is on its way.
func (p *put) write(ctx context.Context, content io.Reader) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(1)
	var buffers [2][]byte
	for i := 0; ; i++ {
		part, last, err := fill(groupCtx, content, buffers[i%2])
		if err != nil {
			// The part on its way has a say, as its failure ends the reading too.
			if wrong := group.Wait(); wrong != nil && ctx.Err() == nil {
				err = wrong
			}
			return err
		}
		// A buffer is free again when the part after it has begun, as they go one by one.
		buffers[i%2] = part
		group.Go(func() error { return p.writePart(groupCtx, part) })
		if last {
			break
		}
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return p.finish(ctx)
}

// fill reads a part into a buffer, which it makes larger when need be, and tells whether content has ended.
func fill(ctx context.Context, content io.Reader, buffer []byte) (part []byte, last bool, err error) {
	buffer = buffer[:0]
	for len(buffer) < partSize {
		if len(buffer) == cap(buffer) {
			buffer = append(make([]byte, 0, min(max(firstRead, 8*cap(buffer)), partSize)), buffer...)
		}
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		n, err := content.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+n]
		if err == io.EOF {
			return buffer, true, nil
		}
		if err != nil {
			return nil, false, fmt.Errorf("read its content: %w", err)
		}
	}
	return buffer, false, nil
}

// writePart writes a part behind those before, and has it on the server's disk on return, if the server can. When the
// connection breaks it goes on with another.
func (p *put) writePart(ctx context.Context, part []byte) error {
	retry := p.options.Retry
	if p.conn != nil && !p.conn.syncs && p.written > 0 { // see open
		retry.Attempts = 1
	}
	err := retry.Do(ctx, func() error {
		if err := p.open(ctx); err != nil {
			return err
		}
		c, file, at := p.conn, p.file, p.written
		if err := tell(ctx, c, func() error {
			if len(part) == 0 {
				return nil
			}
			_, err := file.WriteAt(part, at)
			return err
		}); err != nil {
			return absent(err)
		}
		if !c.syncs {
			return nil
		}
		err := tell(ctx, c, file.Sync)
		if isAnswer(err) { // a second sync of the same bytes would say that all is well, and not know
			err = store.Mark(fmt.Errorf("sync: %w", err), store.ErrFinal)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("write from byte %d on: %w", p.written, err)
	}
	p.written += int64(len(part))
	return nil
}

// open has the temporary file open on a connection that lives.
func (p *put) open(ctx context.Context) error {
	if p.conn != nil && !p.conn.isOver() {
		return nil
	}
	if p.conn != nil {
		syncs := p.conn.syncs
		p.letGo()
		if !syncs && p.written > 0 {
			// The server may have crashed, and lost what it had not on its disk.
			return fmt.Errorf("%w, and the server may have lost what it has so far", errLost)
		}
	}
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	flags := os.O_WRONLY | os.O_CREATE
	if !p.begun {
		flags |= os.O_EXCL
	}
	if p.written > 0 {
		flags = os.O_WRONLY
	}
	p.begun = true
	temporary := p.path(p.temporary)
	if err := c.makeFolder(ctx, path.Dir(p.temporary)); err != nil {
		c.release()
		return absent(err)
	}
	file, err := askThen(ctx, c, func() (*sftp.File, error) {
		file, err := c.client.OpenFile(temporary, flags)
		if err != nil {
			return nil, err
		}
		if err := file.Chmod(fileMode); err != nil {
			return nil, errors.Join(err, file.Close())
		}
		return file, nil
	}, func(file *sftp.File) { _ = file.Close() }) // nothing was written by it
	if err == nil && p.written > 0 {
		err = p.wantSize(ctx, c, file)
	}
	if err != nil {
		c.release()
		return fmt.Errorf("open its temporary file: %w", absent(err))
	}
	p.conn, p.file = c, file
	return nil
}

// wantSize checks that what was synced is there after the connection has broken.
func (p *put) wantSize(ctx context.Context, c *conn, file *sftp.File) error {
	info, err := ask(ctx, c, file.Stat)
	if err == nil && info.Size() < p.written {
		err = store.Mark(fmt.Errorf("%d bytes were synced, and the server has %d", p.written, info.Size()), store.ErrFinal)
	}
	return err
}

// letGo forgets the open file.
func (p *put) letGo() {
	if p.conn != nil {
		p.conn.release()
	}
	p.conn, p.file = nil, nil
}

// finish closes the temporary file, and compares its size with what was written.
func (p *put) finish(ctx context.Context) error {
	c, file := p.conn, p.file
	defer p.letGo()
	// The parts are safe without this, unless the server cannot sync: then this is the last moment to hear of an error.
	if err := tell(ctx, c, file.Close); err != nil && (isAnswer(err) || !c.syncs) {
		return fmt.Errorf("close its temporary file: %w", absent(err))
	}
	return p.options.Retry.Do(ctx, func() error {
		c, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer c.release()
		info, err := c.lstat(ctx, p.path(p.temporary))
		if err == nil && info.Size() != p.written {
			err = store.Mark(fmt.Errorf("%d bytes were written, and the server has %d", p.written, info.Size()), store.ErrFinal)
		}
		if err != nil {
			return fmt.Errorf("look at its temporary file: %w", absent(err))
		}
		p.modified = info.ModTime()
		return nil
	})
}

// cleanUp removes the temporary file, also after the object has its name: that is another one for the same file. What it
// cannot remove, Sweep does.
func (p *put) cleanUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, graceTime)
	defer cancel()
	file := p.file
	if c := p.conn; c != nil && !c.isOver() {
		_ = tell(ctx, c, file.Close)
	}
	p.letGo()
	if !p.begun {
		return
	}
	c, err := p.connect(ctx)
	if err != nil {
		return
	}
	defer c.release()
	_ = c.remove(ctx, p.temporary)
}
