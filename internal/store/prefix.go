package store

import (
	"context"
	"io"
	"iter"
	"strings"
)

// Prefix gives the part of a store whose names begin with prefix, which passes CheckName, and a slash, as a store of its
// own; "" gives the store itself. Errors show the whole names. It is no Sweeper: that would sweep outside of it.
func Prefix(s Store, prefix string) Store {
	if prefix == "" {
		return s
	}
	p := &prefixed{inner: s, prefix: prefix + "/"}
	var d Deleter
	if deleter, can := s.(Deleter); can {
		d = &prefixedDelete{deleter, p.prefix}
	}
	return Combine(p, d, nil)
}

type prefixed struct {
	inner  Store
	prefix string // with its slash
}

type prefixedDelete struct {
	Deleter
	prefix string
}

func (p *prefixedDelete) Delete(ctx context.Context, name string) error {
	return p.Deleter.Delete(ctx, p.prefix+name)
}

func (p *prefixed) bare(object Object) Object {
	object.Name = strings.TrimPrefix(object.Name, p.prefix)
	return object
}

func (p *prefixed) Put(ctx context.Context, name string, content io.Reader, opts PutOptions) (Object, error) {
	object, err := p.inner.Put(ctx, p.prefix+name, content, opts)
	return p.bare(object), err
}

func (p *prefixed) Open(ctx context.Context, name string, from, length int64) (io.ReadCloser, error) {
	return p.inner.Open(ctx, p.prefix+name, from, length)
}

func (p *prefixed) Stat(ctx context.Context, name string) (Object, error) {
	object, err := p.inner.Stat(ctx, p.prefix+name)
	return p.bare(object), err
}

func (p *prefixed) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	if after != "" {
		after = p.prefix + after
	}
	return func(yield func(Object, error) bool) {
		for object, err := range p.inner.List(ctx, p.prefix+prefix, after) {
			if !yield(p.bare(object), err) {
				return
			}
		}
	}
}
