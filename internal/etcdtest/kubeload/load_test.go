package kubeload

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func equalOps(a, b Op) bool {
	return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && a.LeaseSlot == b.LeaseSlot
}

func TestSameSeedSameLoad(t *testing.T) {
	first, second := slices.Collect(New(7, 400).Ops()), slices.Collect(New(7, 400).Ops())
	if !slices.EqualFunc(first, second, equalOps) {
		t.Error("two readings of one load differ")
	}
	other := slices.Collect(New(8, 400).Ops())
	if slices.EqualFunc(first, other, equalOps) {
		t.Error("two seeds give the same load")
	}
	for i, op := range slices.Collect(New(7, 100).Ops())[:100] {
		if !equalOps(op, first[i]) {
			t.Fatalf("object %d of a smaller load is %q, of a larger one %q", i, op.Key, first[i].Key)
		}
	}
}

// TestHistory walks the writes as etcd would: an update or a delete needs a key that is there, a creation one that is
// not, and all of it happens in a load of this size.
func TestHistory(t *testing.T) {
	const objects = 1000
	live := map[string][]byte{}
	var updates, deletes, again int
	deleted := map[string]bool{}
	number := 0
	for op := range New(1, objects).Ops() {
		_, exists := live[op.Key]
		switch {
		case op.Value == nil && !exists:
			t.Errorf("delete of %q, which is not there", op.Key)
		case op.Value == nil:
			deletes++
			delete(live, op.Key)
			deleted[op.Key] = true
			number++
			continue
		case number < objects && exists:
			t.Errorf("two objects have the key %q", op.Key)
		case exists && bytes.Equal(live[op.Key], op.Value):
			t.Errorf("update of %q changes nothing", op.Key)
		case exists:
			updates++
		case deleted[op.Key]:
			again++
		}
		live[op.Key] = op.Value
		number++
	}
	if updates < objects/4 || deletes < objects/50 || again == 0 {
		t.Errorf("too little happens: %d updates, %d deletes, %d objects made again", updates, deletes, again)
	}
}

// TestFirstHundredHasEveryKind keeps small loads worth something.
func TestFirstHundredHasEveryKind(t *testing.T) {
	seen := map[kind]bool{}
	for i := range 100 {
		seen[kindOf(i)] = true
	}
	for _, s := range shares {
		if !seen[s.kind] {
			t.Errorf("no object of kind %d", s.kind)
		}
	}
	if !seen[definition] {
		t.Error("no definition")
	}
}

type object interface {
	metav1.Object
	Unmarshal([]byte) error
}

// builtIn maps the part of a key after /registry/ to what its value must be.
var builtIn = map[string]struct {
	apiVersion, kind string
	namespaced       bool
	empty            func() object
}{
	"pods/":             {"v1", "Pod", true, func() object { return new(corev1.Pod) }},
	"namespaces/":       {"v1", "Namespace", false, func() object { return new(corev1.Namespace) }},
	"minions/":          {"v1", "Node", false, func() object { return new(corev1.Node) }},
	"configmaps/":       {"v1", "ConfigMap", true, func() object { return new(corev1.ConfigMap) }},
	"secrets/":          {"v1", "Secret", true, func() object { return new(corev1.Secret) }},
	"services/specs/":   {"v1", "Service", true, func() object { return new(corev1.Service) }},
	"serviceaccounts/":  {"v1", "ServiceAccount", true, func() object { return new(corev1.ServiceAccount) }},
	"events/":           {"v1", "Event", true, func() object { return new(corev1.Event) }},
	"endpointslices/":   {"discovery.k8s.io/v1", "EndpointSlice", true, func() object { return new(discoveryv1.EndpointSlice) }},
	"leases/":           {"coordination.k8s.io/v1", "Lease", true, func() object { return new(coordinationv1.Lease) }},
	"deployments/":      {"apps/v1", "Deployment", true, func() object { return new(appsv1.Deployment) }},
	"replicasets/":      {"apps/v1", "ReplicaSet", true, func() object { return new(appsv1.ReplicaSet) }},
	"jobs/":             {"batch/v1", "Job", true, func() object { return new(batchv1.Job) }},
	"rolebindings/":     {"rbac.authorization.k8s.io/v1", "RoleBinding", true, func() object { return new(rbacv1.RoleBinding) }},
	"ranges/serviceips": {"v1", "RangeAllocation", false, func() object { return new(corev1.RangeAllocation) }},
}

func TestValuesDecode(t *testing.T) {
	for op := range New(3, 600).Ops() {
		rest, found := strings.CutPrefix(op.Key, "/registry/")
		if !found {
			if op.Key != "compact_rev_key" {
				t.Errorf("key %q is outside of the prefix", op.Key)
			}
			continue
		}
		if (op.LeaseSlot > 0) != (strings.HasPrefix(rest, "events/") && op.Value != nil) {
			t.Errorf("%q has lease slot %d", op.Key, op.LeaseSlot)
		}
		if op.Value == nil {
			continue
		}
		if bytes.HasPrefix(op.Value, []byte("{")) {
			checkJSON(t, rest, op.Value)
			continue
		}
		checkProtobuf(t, rest, op.Value)
	}
}

func checkProtobuf(t *testing.T, rest string, value []byte) {
	t.Helper()
	for folder, want := range builtIn {
		path, found := strings.CutPrefix(rest, folder)
		if !found {
			continue
		}
		raw, found := bytes.CutPrefix(value, []byte("k8s\x00"))
		var envelope runtime.Unknown
		got := want.empty()
		if err := envelope.Unmarshal(raw); !found || err != nil {
			t.Errorf("%s: no envelope: %v", rest, err)
		} else if envelope.APIVersion != want.apiVersion || envelope.Kind != want.kind {
			t.Errorf("%s: holds a %s %s", rest, envelope.APIVersion, envelope.Kind)
		} else if err := got.Unmarshal(envelope.Raw); err != nil {
			t.Errorf("%s: %v", rest, err)
		}
		name := got.GetName()
		if want.namespaced {
			name = got.GetNamespace() + "/" + name
		}
		if name != path {
			t.Errorf("%s: names itself %q", rest, name)
		}
		return
	}
	t.Errorf("%s: not a folder of Kubernetes", rest)
}

func checkJSON(t *testing.T, rest string, value []byte) {
	t.Helper()
	var got struct {
		APIVersion, Kind string
		Metadata         struct{ Name, Namespace string }
	}
	if err := json.Unmarshal(value, &got); err != nil || !bytes.HasSuffix(value, []byte("\n")) {
		t.Errorf("%s: not JSON with a line feed: %v", rest, err)
	}
	want := "apiextensions.k8s.io/customresourcedefinitions/" + got.Metadata.Name
	if got.Kind != "CustomResourceDefinition" {
		i := slices.IndexFunc(definitions, func(d struct{ group, plural, kind string }) bool { return d.kind == got.Kind })
		if i < 0 {
			t.Errorf("%s: kind %q has no definition", rest, got.Kind)
			return
		}
		want = definitions[i].group + "/" + definitions[i].plural + "/" + got.Metadata.Namespace + "/" + got.Metadata.Name
	}
	if rest != want {
		t.Errorf("%s: names itself %q", rest, want)
	}
}

// TestShapeIsThatOfARealCluster holds the two numbers that snapshots are slow or fast by: the database of a cluster
// in use has about 6 to 10 kB a record, and compresses to 0.3 to 0.5 of its size.
func TestShapeIsThatOfARealCluster(t *testing.T) {
	var plain, packed counter
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	puts := 0
	for op := range New(5, 1500).Ops() {
		if op.Value == nil {
			continue
		}
		puts++
		if _, err := io.MultiWriter(&plain, w).Write(append([]byte(op.Key), op.Value...)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	mean, ratio := float64(plain)/float64(puts), float64(packed)/float64(plain)
	t.Logf("%d puts of %.0f bytes, compressed to %.2f", puts, mean, ratio)
	if mean < 5500 || mean > 10000 || ratio < 0.3 || ratio > 0.5 {
		t.Errorf("got %.0f bytes a put, compressed to %.2f of them", mean, ratio)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
