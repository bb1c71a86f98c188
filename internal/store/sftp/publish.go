package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"path"
	"time"

	"github.com/holdfast-project/holdfast/internal/store"
)

// publish gives the temporary file the name of the object, unless that is taken, and makes the name durable. Once the server
// is asked for it, the end of ctx does not count until it has answered: late ends some time later.
func (p *put) publish(ctx, late context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	doubt := false // whether a call whose answer was lost may have taken effect
	err := p.options.Retry.Do(ctx, func() error {
		c, err := p.connect(ctx)
		if err != nil {
			return err
		}
		defer c.release()
		if c.links {
			err = p.link(late, c, doubt)
		} else {
			err = p.rename(late, c, doubt)
		}
		doubt = doubt || err != nil && !isVerdict(err)
		return err
	})
	if err != nil && doubt && !isVerdict(err) {
		err = p.settle(late, err)
	}
	if err != nil {
		return err
	}
	err = p.options.Retry.Do(late, func() error {
		return p.onConn(late, func(c *conn) error { return c.syncFolder(late, path.Dir(p.name)) })
	})
	if err != nil {
		// Nobody may build on it; the server may not be there to hear that.
		gone := p.onConn(late, func(c *conn) error { return c.remove(late, p.name) })
		return errors.Join(absent(err), gone)
	}
	return nil
}

func (p *put) onConn(ctx context.Context, f func(*conn) error) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer c.release()
	return f(c)
}

// isVerdict tells whether an error leaves no doubt: the object is another's, or nothing was done.
func isVerdict(err error) bool {
	for _, class := range []error{store.ErrExists, store.ErrDenied, store.ErrUnsupported, store.ErrFinal} {
		if errors.Is(err, class) {
			return true
		}
	}
	return isAnswer(err)
}

// link publishes by a hard link.
func (p *put) link(ctx context.Context, c *conn, doubt bool) error {
	err := tell(ctx, c, func() error { return c.client.Link(p.path(p.temporary), p.path(p.name)) })
	if err == nil || !isAnswer(err) {
		return err
	}
	// Servers have no word for "exists".
	switch there := p.whose(ctx, c, doubt); {
	case !errors.Is(there, store.ErrNotFound):
		return there
	case isAnswer(err, codeUnsupported, codeDenied, codeFailure): // such as a file system without links
		if renameErr := p.rename(ctx, c, doubt); !errors.Is(renameErr, store.ErrUnsupported) {
			return renameErr
		}
		return fmt.Errorf("link: %w", err)
	}
	return p.missing(ctx, c, fmt.Errorf("link: %w", err))
}

// rename publishes by the rename of SFTP.
func (p *put) rename(ctx context.Context, c *conn, doubt bool) error {
	if err := c.checkRename(ctx); err != nil {
		return err
	}
	err := tell(ctx, c, func() error { return c.client.Rename(p.path(p.temporary), p.path(p.name)) })
	if err == nil || !isAnswer(err) {
		return err
	}
	if there := p.whose(ctx, c, doubt); !errors.Is(there, store.ErrNotFound) {
		return there
	}
	return p.missing(ctx, c, fmt.Errorf("rename: %w", err))
}

// missing is for a refusal while the name is free. When it is because somebody has removed the folder, it is made again,
// once.
func (p *put) missing(ctx context.Context, c *conn, refusal error) error {
	if !errors.Is(refusal, store.ErrNotFound) {
		return refusal
	}
	if _, err := c.lstat(ctx, p.path(p.temporary)); err != nil {
		return fmt.Errorf("look at its temporary file: %w", absent(err))
	}
	if p.again {
		return absent(refusal)
	}
	p.again = true
	c.forget()
	if err := c.makeFolder(ctx, path.Dir(p.name)); err != nil {
		return absent(err)
	}
	return errors.New("its folder was removed meanwhile")
}

// settle finds out what became of a call whose answer was lost. It gives nil when the object is there and ours.
func (p *put) settle(ctx context.Context, lost error) error {
	var there error
	err := p.options.Retry.Do(ctx, func() error {
		return p.onConn(ctx, func(c *conn) error {
			there = p.whose(ctx, c, true)
			if there == nil || errors.Is(there, store.ErrNotFound) || isVerdict(there) {
				return nil
			}
			return there
		})
	})
	switch {
	case err != nil:
		return fmt.Errorf("%w; whether it is there after all is not known: %w", lost, err)
	case errors.Is(there, store.ErrNotFound):
		return lost
	}
	return there
}

// look tells what is in the object's place: store.ErrNotFound when nothing is, store.ErrExists when an object is that is
// durable.
func (p *put) look(ctx context.Context, c *conn) error {
	info, err := c.lstat(ctx, p.path(p.name))
	if err != nil {
		return err
	}
	return p.taken(ctx, c, info)
}

// taken is the error for a name that is there already. Its writer may not have come to the sync of the folder yet, and who
// hears that an object exists builds on it.
func (p *put) taken(ctx context.Context, c *conn, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return store.Mark(errors.New("something that is no object is in its place"), store.ErrFinal)
	}
	if err := c.syncFolder(ctx, path.Dir(p.name)); err != nil {
		return err
	}
	return store.ErrExists
}

// whose is look that gives nil when the object is ours, which can be when there is a doubt.
func (p *put) whose(ctx context.Context, c *conn, doubt bool) error {
	info, err := c.lstat(ctx, p.path(p.name))
	if err != nil {
		return err
	}
	if doubt && info.Mode().IsRegular() {
		if ours, err := p.isOurs(ctx, c, info); ours || err != nil {
			return err
		}
	}
	return p.taken(ctx, c, info)
}

// isOurs tells whether an object is the one of this Put. After a link, it is the same file as the temporary one: a time that
// is set there shows here. After a rename, the temporary file is gone.
func (p *put) isOurs(ctx context.Context, c *conn, object fs.FileInfo) (bool, error) {
	temporary := p.path(p.temporary)
	info, err := c.lstat(ctx, temporary)
	if errors.Is(err, store.ErrNotFound) {
		// Nobody else has renamed it. Sweep may have removed it, after a day.
		return object.Size() == p.written, nil
	}
	if err != nil {
		return false, err
	}
	written := info.ModTime()
	setTime := func(to time.Time) error {
		return tell(ctx, c, func() error { return c.client.Chtimes(temporary, to, to) })
	}
	// Twice, as another's time could be the same by chance. It is some hours ago: too young for Sweep.
	for range 2 {
		mark := written.Add(-time.Hour - time.Duration(mathrand.IntN(8*3600))*time.Second)
		if err := setTime(mark); err != nil {
			return false, err
		}
		seen, err := c.lstat(ctx, p.path(p.name))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		if err != nil || !seen.ModTime().Equal(mark) {
			return false, setTime(written)
		}
	}
	return true, setTime(written)
}

// checkRename tries out whether the server's rename refuses to replace a file; some replace, and those cannot keep writers
// apart. It does so once for each store.
func (c *conn) checkRename(ctx context.Context) error {
	s := c.store
	s.mu.Lock()
	known := s.renames
	s.mu.Unlock()
	if known {
		return nil
	}
	from, to := path.Join(temporary, "from-"+rand.Text()), path.Join(temporary, "to-"+rand.Text())
	err := tell(ctx, c, func() error {
		for _, name := range []string{from, to} {
			file, err := c.client.Create(s.path(name))
			if err != nil {
				return err
			}
			if err := file.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("try out its rename: %w", absent(err))
	}
	err = tell(ctx, c, func() error { return c.client.Rename(s.path(from), s.path(to)) })
	if !isAnswer(err) && err != nil {
		return err
	}
	if removeErr := errors.Join(c.remove(ctx, from), c.remove(ctx, to)); removeErr != nil {
		return fmt.Errorf("try out its rename: %w", removeErr)
	}
	if err == nil {
		return store.Mark(fmt.Errorf("the server has no hard links, and its rename replaces files, so that it cannot keep writers apart: %w",
			store.ErrUnsupported), store.ErrFinal)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renames = true
	return nil
}
