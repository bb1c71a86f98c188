package kubeload

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// maker makes one generation of one object. What an object is, comes from identity, which is the same for each of its
// generations and must be asked in the same order; what changes, comes from state.
type maker struct {
	identity   *rand.Rand
	state      *rand.Rand
	namespaces *rand.Rand
	index      int
	generation int
	// at is when this generation was written, where that is not as changed would have it.
	at time.Time
}

// object makes the object as a kind.
func (m maker) object(k kind) Op {
	switch k {
	case definition:
		return m.definition()
	case customResource:
		return m.customResource()
	case namespace:
		return m.namespace()
	case node:
		return m.node()
	case pod:
		return m.pod()
	case replicaSet:
		return m.replicaSet()
	case deployment:
		return m.deployment()
	case configMap:
		return m.configMap()
	case secret:
		return m.secret()
	case service:
		return m.service()
	case endpointSlice:
		return m.endpointSlice()
	case serviceAccount:
		return m.serviceAccount()
	case lease:
		return m.lease()
	case event:
		return m.event()
	case job:
		return m.job()
	case roleBinding:
		return m.roleBinding()
	case nodeLease:
		return m.nodeLease()
	case controllerLease:
		return m.controllerLease()
	case autoscaler:
		return m.autoscaler()
	}
	panic(fmt.Sprintf("kubeload: no maker for kind %d", k))
}

// stored gives the value of a built-in type as an API server stores it: a magic, then an envelope that names the type,
// around the object in protobuf.
func stored(apiVersion, kind string, object interface{ Marshal() ([]byte, error) }) []byte {
	raw, err := object.Marshal()
	if err == nil {
		envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}, Raw: raw}
		raw, err = envelope.Marshal()
	}
	if err != nil {
		panic("kubeload: encode " + kind + ": " + err.Error()) // writes to memory only
	}
	return append([]byte("k8s\x00"), raw...)
}

// epoch is when the made-up cluster was born.
var epoch = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// created is when the object was: one each second.
func (m maker) created() time.Time { return epoch.Add(time.Duration(m.index) * time.Second) }

// changed is when this generation was written.
func (m maker) changed() time.Time {
	if !m.at.IsZero() {
		return m.at
	}
	return m.created().Add(time.Duration(m.generation) * 10 * time.Second)
}

// name gives a name that no other object has.
func (m maker) name() string { return m.base() + "-" + suffix(m.index, 5) }

func (m maker) base() string { return word(m.identity) + "-" + word(m.identity) }

// namespaceName gives one of the namespaces that the load has by then, or one that every cluster has.
func (m maker) namespaceName() string {
	if n := m.namespaces.IntN(m.index/100 + 2); n > 0 {
		return teamNamespace(n - 1)
	}
	return "default"
}

// teamNamespace names the namespace of the nth hundred of objects.
func teamNamespace(n int) string { return fmt.Sprintf("team-%03d", n) }

// nodeName names the node of the nth hundred of objects.
func nodeName(n int) string { return fmt.Sprintf("worker-%03d.example.internal", n) }

// anyNode gives a node that the load has by then.
func (m maker) anyNode() string { return nodeName(m.namespaces.IntN(m.index/100 + 1)) }

func (m maker) labels(app string) map[string]string {
	return map[string]string{
		"app.kubernetes.io/name": app, "app.kubernetes.io/instance": app + "-prod", "app.kubernetes.io/managed-by": "Helm",
		"team": word(m.identity), "pod-template-hash": suffix(m.identity.IntN(1<<30), 9),
	}
}

// meta gives the metadata of an object. As in a real store, resource version and self link are not in it.
func (m maker) meta(name, ns, app string) metav1.ObjectMeta {
	created, changed := metav1.NewTime(m.created()), metav1.NewTime(m.changed())
	labels := m.labels(app)
	meta := metav1.ObjectMeta{
		Name: name, Namespace: ns, UID: uid(m.identity), Generation: int64(m.generation + 1),
		CreationTimestamp: created, Labels: labels,
		ManagedFields: []metav1.ManagedFieldsEntry{
			managed("helm", metav1.ManagedFieldsOperationApply, created, "", labels, "spec"),
		},
	}
	if m.generation > 0 {
		meta.ManagedFields = append(meta.ManagedFields,
			managed("kubelet", metav1.ManagedFieldsOperationUpdate, changed, "status", nil, "status"))
	}
	return meta
}

// managed gives a record of who set which fields: on most objects these are a third of the bytes.
func managed(manager string, how metav1.ManagedFieldsOperationType, when metav1.Time, sub string, labels map[string]string, root string) metav1.ManagedFieldsEntry {
	fields := map[string]any{"f:" + root: map[string]any{
		"f:containers": map[string]any{`k:{"name":"app"}`: map[string]any{
			".": struct{}{}, "f:image": struct{}{}, "f:imagePullPolicy": struct{}{}, "f:name": struct{}{}, "f:resources": struct{}{},
			"f:env": map[string]any{".": struct{}{}, `k:{"name":"LOG_LEVEL"}`: map[string]any{".": struct{}{}, "f:name": struct{}{}, "f:value": struct{}{}}},
		}},
		"f:replicas": struct{}{}, "f:selector": struct{}{}, "f:strategy": map[string]any{"f:type": struct{}{}},
	}}
	if labels != nil {
		set := map[string]any{".": struct{}{}}
		for label := range labels {
			set["f:"+label] = struct{}{}
		}
		fields["f:metadata"] = map[string]any{"f:labels": set}
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		panic("kubeload: encode managed fields: " + err.Error()) // only maps and texts are in it
	}
	return metav1.ManagedFieldsEntry{
		Manager: manager, Operation: how, APIVersion: "v1", Time: &when, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(string(raw)), Subresource: sub,
	}
}
