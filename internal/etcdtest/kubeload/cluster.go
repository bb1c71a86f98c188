package kubeload

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Cluster is a cluster that nobody works on, as it goes on by itself: kubelets and controllers say that they live, the
// state of pods and custom resources changes, autoscalers look, events come and expire. The same seed and number of nodes give
// the same changes with the same bytes. It is a plain value, safe for concurrent use.
//
// With 200 nodes there are some 34 changes a second of 1.1 kB each. Of them 70 % are renewed leases, as they are in a real
// cluster; of the bytes, leases have two fifths, nodes and pods one sixth each.
type Cluster struct {
	seed  uint64
	nodes int
}

// NewCluster gives the cluster of a seed with so many nodes.
func NewCluster(seed uint64, nodes int) Cluster { return Cluster{seed: seed, nodes: nodes} }

// Change is what one revision of etcd does.
type Change struct {
	// At is when it comes, after the beginning.
	At time.Duration
	// Ops are the writes, of different keys: one, or the deletes of events that expire together.
	Ops []Op
}

// pace tells how often the objects of a kind change, and how many there are, for each node.
type pace struct {
	kind    kind
	objects float64
	// changes is a number each second.
	changes float64
}

// paces are those of a quiet cluster with the usual controllers. A kubelet renews its lease each 10 s and reports its node
// each 5 min; controllers renew theirs each 2 s.
var paces = []pace{
	{nodeLease, 1, 0.1},
	{controllerLease, 0.04, 0.02},
	{node, 1, 1.0 / 300},
	{pod, 25, 0.006},
	{customResource, 2, 0.01},
	{autoscaler, 0.5, 0.009},
	{endpointSlice, 2, 0.002},
}

// eventRate is how many events a second each node has.
const eventRate = 0.015

// leaseMinute is for how long an API server puts new events on the same lease.
const leaseMinute = time.Minute

// mostDeletes bounds the writes of one change: etcd takes 128 in one transaction by default.
const mostDeletes = 100

// Changes gives what happens, without an end. An object is there from its first change on.
func (c Cluster) Changes() iter.Seq[Change] {
	return func(yield func(Change) bool) {
		l := &life{Cluster: c, random: c.random(0, "life"), generations: map[[2]int]int{}, expiring: map[int][]string{}}
		for second := 0; ; second++ {
			changes := l.second(second)
			slices.SortStableFunc(changes, func(a, b Change) int { return int(a.At - b.At) })
			for _, change := range changes {
				if !yield(change) {
					return
				}
			}
		}
	}
}

// count is how many objects of a kind the cluster has.
func (c Cluster) count(p pace) int { return max(1, int(p.objects*float64(c.nodes))) }

// write gives one generation of an object as of a time.
func (c Cluster) write(k kind, i, generation int, at time.Duration) Op {
	aspect := strconv.Itoa(int(k))
	index := i
	if k == node {
		index = i * 100 // see nodeName
	}
	return maker{
		identity:   c.random(i, "identity"+aspect),
		state:      c.random(i, "state"+aspect+"/"+strconv.Itoa(generation)),
		namespaces: c.random(i, "namespace"+aspect),
		index:      index,
		generation: generation,
		at:         epoch.Add(at),
	}.object(k)
}

func (c Cluster) random(i int, aspect string) *rand.Rand {
	return Load{seed: c.seed}.random(i, "cluster "+aspect)
}

// life is a cluster on its way.
type life struct {
	Cluster
	random      *rand.Rand
	generations map[[2]int]int // by kind and number
	events      int
	// expiring are the keys of events by the minute of their lease.
	expiring map[int][]string
}

// second gives the changes of one second, in no order.
func (l *life) second(second int) []Change {
	start := time.Duration(second) * time.Second
	at := func() time.Duration { return start + time.Duration(l.random.Int64N(int64(time.Second))) }
	var changes []Change
	for _, p := range paces {
		for _, i := range l.due(p, second) {
			id := [2]int{int(p.kind), i}
			l.generations[id]++
			when := at()
			changes = append(changes, Change{when, []Op{l.write(p.kind, i, l.generations[id], when)}})
		}
	}
	for range l.some(eventRate * float64(l.nodes)) {
		when := at()
		op := l.write(event, l.events, 0, when)
		minute := int(when / leaseMinute)
		op.LeaseSlot = minute + 1
		l.events++
		l.expiring[minute] = append(l.expiring[minute], op.Key)
		changes = append(changes, Change{when, []Op{op}})
	}
	minute := (second - LeaseTTL) / int(leaseMinute/time.Second)
	if expired, found := l.expiring[minute-1]; found && second > LeaseTTL {
		delete(l.expiring, minute-1)
		for keys := range slices.Chunk(expired, mostDeletes) {
			change := Change{At: start}
			for _, key := range keys {
				change.Ops = append(change.Ops, Op{Key: key})
			}
			changes = append(changes, change)
		}
	}
	return changes
}

// due gives the objects of a kind that change in a second: what says that it lives does so by the clock, the rest at random.
func (l *life) due(p pace, second int) []int {
	count := l.count(p)
	var list []int
	switch p.kind {
	case nodeLease, controllerLease, node:
		period := int(p.objects/p.changes + 0.5)
		for i := range count {
			if (second+i*period/count)%period == 0 {
				list = append(list, i)
			}
		}
	default:
		for range l.some(p.changes * float64(l.nodes)) {
			list = append(list, l.random.IntN(count))
		}
	}
	return list
}

// some gives a number that is the rate on average.
func (l *life) some(rate float64) int {
	n := int(rate)
	if l.random.Float64() < rate-float64(n) {
		n++
	}
	return n
}

// heartbeat makes a Lease as whoever renews it all the time leaves it: with little about it beside the time.
func (m maker) heartbeat(ns, name string, owner ...metav1.OwnerReference) Op {
	created, renewed := metav1.NewTime(m.created()), metav1.NewMicroTime(m.changed())
	changed := metav1.NewTime(m.changed())
	l := coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: ns, UID: uid(m.identity), CreationTimestamp: created, OwnerReferences: owner,
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kubelet", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "coordination.k8s.io/v1", Time: &changed,
				FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(leaseFields),
			}},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: new(int32(40)), RenewTime: &renewed},
	}
	return Op{Key: "/registry/leases/" + ns + "/" + name, Value: stored("coordination.k8s.io/v1", "Lease", &l)}
}

// leaseFields are those that a kubelet sets.
const leaseFields = `{"f:metadata":{"f:ownerReferences":{".":{},"k:{\"uid\":\"\"}":{}}},"f:spec":{"f:holderIdentity":{},"f:leaseDurationSeconds":{},"f:renewTime":{}}}`

// nodeLease makes the Lease of a node of a Cluster.
func (m maker) nodeLease() Op {
	name := nodeName(m.index)
	return m.heartbeat("kube-node-lease", name, metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uid(m.identity)})
}

// controllerLease makes the Lease of a controller that leads.
func (m maker) controllerLease() Op {
	return m.heartbeat("kube-system", fmt.Sprintf("controller-%d", m.index))
}
