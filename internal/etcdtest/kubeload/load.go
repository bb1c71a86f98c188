// Package kubeload makes the keyspace of a Kubernetes cluster that is not there: keys laid out as an API server lays
// them out, values encoded as it encodes them, events on shared etcd leases, updates and deletes.
//
// It is for tests, the demo and the benches. The same seed and number of objects give the same operations with the
// same bytes, anywhere and at any time; the revisions that etcd gives them depend on the order of the writers. A Load
// is a plain value, safe for concurrent use. Nothing in it is anybody's data: names, values and keys are made up.
package kubeload

import (
	"iter"
	"math/rand/v2"
	"strconv"
)

const (
	// LeaseTTL is what an API server asks for its events, in seconds.
	LeaseTTL = 3600
	// leaseObjects is how many objects in a row share one lease for the events among them. An API server allows
	// 1,000 events on a lease; with fewer, a small load has several leases too.
	leaseObjects = 250
)

// Load is a set of objects and what happens to them.
type Load struct {
	seed    uint64
	objects int
}

// New gives the load of a seed with so many objects. The objects of a smaller load are the first ones of a larger.
func New(seed uint64, objects int) Load { return Load{seed: seed, objects: objects} }

// Op is one write to etcd.
type Op struct {
	Key string
	// Value is what to put; nil means delete.
	Value []byte
	// LeaseSlot tells which lease the key hangs on: 0 is none, and ops with the same slot share one.
	LeaseSlot int
}

// Ops gives every write in order: first each object as it is created, then what happens to each, then the API
// server's own bookkeeping.
func (l Load) Ops() iter.Seq[Op] {
	return func(yield func(Op) bool) {
		for i := range l.objects {
			if !yield(l.create(i)) {
				return
			}
		}
		for i := range l.objects {
			for op := range l.churn(i) {
				if !yield(op) {
					return
				}
			}
		}
		for _, op := range l.bookkeeping() {
			if !yield(op) {
				return
			}
		}
	}
}

// create gives the first write of object i.
func (l Load) create(i int) Op { return l.write(i, 0) }

// churn gives what happens to object i after its creation, in order.
func (l Load) churn(i int) iter.Seq[Op] {
	return func(yield func(Op) bool) {
		updates, end := fate(kindOf(i), l.random(i, "fate"))
		for generation := range updates {
			if !yield(l.write(i, generation+1)) {
				return
			}
		}
		if end == stays {
			return
		}
		key := l.create(i).Key
		if yield(Op{Key: key}) && end == comesBack {
			yield(l.write(i, updates+1))
		}
	}
}

// bookkeeping is what an API server writes that is no object of a user: the range of service addresses, and outside of
// its prefix the revision that it last compacted to.
func (l Load) bookkeeping() []Op {
	return []Op{
		{Key: "/registry/ranges/serviceips", Value: rangeAllocation(l.random(0, "ranges"))},
		{Key: "compact_rev_key", Value: []byte(strconv.Itoa(l.objects))},
	}
}

// write gives the write of one generation of object i: 0 when it is created.
func (l Load) write(i, generation int) Op {
	m := maker{
		identity:   l.random(i, "identity"),
		state:      l.random(i, "state"+strconv.Itoa(generation)),
		namespaces: l.random(i, "namespace"),
		index:      i,
		generation: generation,
	}
	op := m.object(kindOf(i))
	if kindOf(i) == event {
		op.LeaseSlot = i/leaseObjects + 1
	}
	return op
}

// random gives the random numbers of one aspect of one object, so that none depends on what was made before it.
func (l Load) random(i int, aspect string) *rand.Rand {
	const prime = 1099511628211 // FNV's: spreads the aspect over the whole word
	h := uint64(14695981039346656037)
	for _, c := range []byte(aspect) {
		h = (h ^ uint64(c)) * prime
	}
	return rand.New(rand.NewPCG(l.seed^h, uint64(i)))
}

// ending is what becomes of an object.
type ending int

const (
	stays ending = iota
	goes
	comesBack // deleted and made again under the same key
)

// fate tells how often an object is updated, and how it ends. The weights are those of a cluster in use: leases are
// renewed all the time, pods become ready and go, most of the rest is written once.
func fate(k kind, r *rand.Rand) (updates int, end ending) {
	percent := r.IntN(100)
	switch k {
	case lease:
		return 5, stays
	case node:
		return 2, stays
	case pod:
		if percent < 12 {
			return 2, goes
		}
		return 1 + r.IntN(2), stays
	case event:
		if percent < 3 {
			return 0, goes
		}
		return r.IntN(2), stays
	case deployment, replicaSet, customResource:
		return 1, stays
	case configMap:
		switch {
		case percent < 4:
			return 0, goes
		case percent < 8:
			return 1, comesBack
		case percent < 20:
			return 1, stays
		}
	case secret, job:
		if percent < 10 {
			return 0, goes
		}
	}
	return 0, stays
}
