package archive

import (
	"slices"
	"testing"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/store/faultstore"
)

// TestWell: what was read before the cluster went away is stored, and the cluster is away all the same until it is back.
func TestWell(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	w, faults := faulty(t)
	h := w.host(t, server.Endpoint)
	r := h.start(t, nil)
	r.begun(w)
	r.storedSegment(put(t, server, 3))
	ail := func(part Part) func([]Event) bool {
		return func(events []Event) bool {
			return slices.ContainsFunc(events, func(e Event) bool { return e.Trouble != nil && e.Part == part })
		}
	}
	well := func(part Part) func([]Event) bool {
		return func(events []Event) bool {
			return slices.ContainsFunc(events, func(e Event) bool { return e.Well == part })
		}
	}
	faults.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/" + cluster + "/", Times: -1})
	revision := put(t, server, 3)
	r.await("trouble with the store", ail(Storing))
	must(t, server.Stop())
	r.await("trouble with the cluster", ail(Reading))
	faults.Clear()
	r.storedSegment(revision)
	r.await("the store", well(Storing))
	if n := r.count(func(e Event) bool { return e.Well == Reading }); n > 0 {
		t.Errorf("the cluster is away\n%s", r)
	}
	must(t, server.Restart(t.Context()))
	r.await("the cluster", well(Reading))
	r.storedSegment(put(t, server, 1))
	r.stop()
	for _, part := range []Part{Storing, Reading} {
		if n := r.count(func(e Event) bool { return e.Well == part }); n != 1 {
			t.Errorf("%s is well %d times\n%s", part, n, r)
		}
	}
}

// TestWellCovered: a snapshot that failed and then was taken.
func TestWellCovered(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{})
	put(t, server, 3)
	w, faults := faulty(t)
	faults.Add(faultstore.Fault{On: faultstore.Put, Name: "clusters/" + cluster + "/manifests/", Times: -1})
	r := w.host(t, server.Endpoint).start(t, nil)
	r.await("trouble", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Trouble != nil && e.Part == Covering })
	})
	faults.Clear()
	r.await("the snapshot", func(events []Event) bool {
		return slices.ContainsFunc(events, func(e Event) bool { return e.Well == Covering })
	})
	r.stop()
}
