package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"time"
)

// RetryOptions say how often a call is made and how long the pauses between are. The zero value gives a store a quarter of
// a minute to come back.
type RetryOptions struct {
	// Attempts is how often a call is made at most; 0 means 6.
	Attempts int
	// Base is the first pause, and each is twice the one before, up to Max; 0 means 500ms and 15s. A random half of a pause
	// is left out, so that many agents do not come back to a busy store at the same moment.
	Base, Max time.Duration
	// Sleep waits that long, or gives the cause of the end of ctx; nil means by the clock.
	Sleep func(ctx context.Context, d time.Duration) error
}

func (o RetryOptions) attempts() int {
	if o.Attempts == 0 {
		return 6
	}
	return o.Attempts
}

// pause waits after the failures so far, of which there is one at least.
func (o RetryOptions) pause(ctx context.Context, failures int) error {
	base, longest, sleep := o.Base, o.Max, o.Sleep
	if base == 0 {
		base = 500 * time.Millisecond
	}
	if longest == 0 {
		longest = 15 * time.Second
	}
	if sleep == nil {
		sleep = sleepByClock
	}
	d := min(base<<min(failures-1, 20), longest)
	return sleep(ctx, d-rand.N(d/2+1))
}

func sleepByClock(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Do makes a call until it works, fails for good or was made Attempts times, and gives its last error. Drivers use it for
// the steps of a Put.
func (o RetryOptions) Do(ctx context.Context, call func() error) error {
	for failures := 1; ; failures++ {
		err := call()
		if err == nil || failures >= o.attempts() || !worthAnother(ctx, err) {
			return err
		}
		if err := o.pause(ctx, failures); err != nil {
			return err
		}
	}
}

// worthAnother tells whether an error may be gone at the next try.
func worthAnother(ctx context.Context, err error) bool {
	if Refused(err) || errors.Is(err, context.Canceled) {
		return false
	}
	if _, locked := errors.AsType[Locked](err); locked {
		return false
	}
	return ctx.Err() == nil
}

// Retry makes reads survive a store that fails now and then: a look, a listing or a read that breaks off is taken up again
// where it was. So does a delete, which may be repeated. A Put is a stream that cannot be; drivers repeat its parts, and
// PutBytes a small one.
func Retry(s Store, opts RetryOptions) Store {
	r := &retry{Store: s, opts: opts}
	var d Deleter
	if deleter, can := s.(Deleter); can {
		d = &retryDelete{deleter, opts}
	}
	w, _ := s.(Sweeper) // not repeated: the next sweep is
	return Combine(r, d, w)
}

type retry struct {
	Store
	opts RetryOptions
}

type retryDelete struct {
	Deleter
	opts RetryOptions
}

func (r *retryDelete) Delete(ctx context.Context, name string) error {
	return r.opts.Do(ctx, func() error { return r.Deleter.Delete(ctx, name) })
}

// Stat looks at an object.
func (r *retry) Stat(ctx context.Context, name string) (object Object, err error) {
	err = r.opts.Do(ctx, func() error {
		object, err = r.Store.Stat(ctx, name)
		return err
	})
	return object, err
}

// List goes on after the last name that it gave. Attempts counts failures without a name between them.
func (r *retry) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for failures := 1; ; failures++ {
			var broken error
			for object, err := range r.Store.List(ctx, prefix, after) {
				if broken = err; err != nil {
					break
				}
				after, failures = object.Name, 1
				if !yield(object, nil) {
					return
				}
			}
			if broken == nil {
				return
			}
			if failures >= r.opts.attempts() || !worthAnother(ctx, broken) {
				yield(Object{}, broken)
				return
			}
			if err := r.opts.pause(ctx, failures); err != nil {
				yield(Object{}, err)
				return
			}
		}
	}
}

// Open gives a reader that opens the object again at its offset when a read breaks off. Objects never change, so that the
// parts fit.
func (r *retry) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	o := &opened{retry: r, ctx: ctx, name: name, from: from, length: length}
	if err := r.opts.Do(ctx, o.open); err != nil {
		return nil, err
	}
	return o, nil
}

// opened is for one goroutine, as any reader.
type opened struct {
	*retry
	ctx          context.Context // that of Open: it bounds the whole read
	name         string
	from, length int64 // what is still to come
	body         io.ReadCloser
	failures     int // since the last byte
}

func (o *opened) open() (err error) {
	o.body, err = o.Store.Open(o.ctx, o.name, o.from, o.length)
	return err
}

func (o *opened) Read(p []byte) (int, error) {
	if o.body == nil {
		return 0, errors.New("read of an object that is closed or broke off")
	}
	n, err := o.body.Read(p)
	o.from += int64(n)
	if o.length > 0 {
		o.length -= int64(n)
	}
	if n > 0 {
		o.failures = 0
	}
	if err == nil || errors.Is(err, io.EOF) || !worthAnother(o.ctx, err) {
		return n, err
	}
	if o.length == 0 { // all that was asked for is here
		return n, io.EOF
	}
	if o.failures++; o.failures >= o.opts.attempts() {
		return n, err
	}
	_ = o.body.Close() // it is broken, and that is what its error would say
	o.body = nil
	if err := o.opts.pause(o.ctx, o.failures); err != nil {
		return n, err
	}
	return n, o.opts.Do(o.ctx, o.open)
}

// Close lets go of the object.
func (o *opened) Close() error {
	if o.body == nil {
		return nil
	}
	err := o.body.Close()
	o.body = nil
	return err
}
