package network

import (
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
)

// Give takes an object of a listing, named by its key. A listing ends with the error when no more is wanted.
type Give func(object store.Object) (more bool, err error)

// List is that of store.Store, for keys that have base before the names of objects. all gives what the store lists, which may be
// more than what is asked for: that is left out here, with names that no object has.
func List(base, prefix, after string, all func(give Give) error) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		before := ""
		err := all(func(object store.Object) (bool, error) {
			if object.Name <= before {
				return false, store.Mark(errors.New("the store does not list names in their order"), store.ErrFinal)
			}
			before = object.Name
			name, ours := strings.CutPrefix(object.Name, base)
			if !ours || !strings.HasPrefix(name, prefix) || name <= after || store.CheckName(name) != nil {
				return true, nil
			}
			object.Name = name
			return yield(object, nil), nil
		})
		if err != nil {
			yield(store.Object{}, fmt.Errorf("list objects %q: %w", prefix, err))
		}
	}
}
