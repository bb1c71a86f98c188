package kubeload

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// upTo gives the changes before a time.
func upTo(c Cluster, end time.Duration) []Change {
	var list []Change
	for change := range c.Changes() {
		if change.At >= end {
			break
		}
		list = append(list, change)
	}
	return list
}

func TestSameClusterSameChanges(t *testing.T) {
	equal := func(a, b Change) bool { return a.At == b.At && slices.EqualFunc(a.Ops, b.Ops, equalOps) }
	first := upTo(NewCluster(7, 20), time.Minute)
	if len(first) < 100 || !slices.EqualFunc(first, upTo(NewCluster(7, 20), time.Minute), equal) {
		t.Errorf("two readings of one cluster with %d changes differ", len(first))
	}
	if slices.EqualFunc(first, upTo(NewCluster(8, 20), time.Minute), equal) {
		t.Error("two seeds give the same changes")
	}
}

// TestChurn holds the cluster against what was measured in one of 200 nodes: how many changes, of what, and how large.
func TestChurn(t *testing.T) {
	const length = 10 * time.Minute
	count, size := map[string]float64{}, map[string]float64{}
	var all, bytes float64
	last := time.Duration(0)
	for _, change := range upTo(NewCluster(1, 200), length) {
		if change.At < last {
			t.Fatalf("a change at %s comes after one at %s", change.At, last)
		}
		last = change.At
		for _, op := range change.Ops {
			kind := strings.Split(strings.TrimPrefix(op.Key, "/registry/"), "/")[0]
			if (op.LeaseSlot > 0) != (kind == "events") {
				t.Fatalf("%q has lease %d", op.Key, op.LeaseSlot)
			}
			n := float64(len(op.Key) + len(op.Value))
			count[kind]++
			size[kind] += n
			all, bytes = all+1, bytes+n
		}
	}
	t.Logf("%.1f changes a second of %.0f bytes", all/length.Seconds(), bytes/all)
	for kind := range count {
		t.Logf("%-30s %5.1f %% of the count, %5.1f %% of the bytes", kind, 100*count[kind]/all, 100*size[kind]/bytes)
	}
	within := func(what string, got, low, high float64) {
		if got < low || got > high {
			t.Errorf("%s: %.3g, want %.3g to %.3g", what, got, low, high)
		}
	}
	within("changes a second", all/length.Seconds(), 31, 37)
	within("bytes of a change", bytes/all, 950, 1250)
	within("share of leases", count["leases"]/all, 0.65, 0.75)
	within("bytes of leases", size["leases"]/bytes, 0.30, 0.45)
	within("bytes of nodes", size["minions"]/bytes, 0.12, 0.24)
	within("bytes of pods", size["pods"]/bytes, 0.10, 0.20)
}

// TestEventsExpire wants each event deleted once, with the others of its lease, when its hour is over.
func TestEventsExpire(t *testing.T) {
	made := map[string]time.Duration{}
	expired := 0
	for _, change := range upTo(NewCluster(1, 40), 65*time.Minute) {
		for _, op := range change.Ops {
			if op.LeaseSlot > 0 {
				made[op.Key] = change.At
			}
			if op.Value != nil {
				continue
			}
			at, found := made[op.Key]
			if age := change.At - at; !found || age < time.Hour || age > 62*time.Minute {
				t.Fatalf("%q is deleted after %s, %t", op.Key, age, found)
			}
			delete(made, op.Key)
			expired++
		}
	}
	if expired < 50 {
		t.Errorf("%d events have expired", expired)
	}
}
