package kubeload

import (
	"fmt"
	"math/rand/v2"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// address gives the nth address of the pods.
func address(n int) string { return fmt.Sprintf("10.%d.%d.%d", 64+n>>16&63, n>>8&255, n&255) }

func (m maker) namespace() Op {
	name := teamNamespace(m.index / 100)
	n := corev1.Namespace{
		ObjectMeta: m.meta(name, "", name),
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
	return Op{Key: "/registry/namespaces/" + name, Value: stored("v1", "Namespace", &n)}
}

// node makes a Node, which is stored under the name that nodes had before there were nodes.
func (m maker) node() Op {
	name := nodeName(m.index / 100)
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(16, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(64<<30, resource.BinarySI),
		corev1.ResourcePods: *resource.NewQuantity(110, resource.DecimalSI),
	}
	when := metav1.NewTime(m.changed())
	n := corev1.Node{
		ObjectMeta: m.meta(name, "", "node"),
		Spec:       corev1.NodeSpec{PodCIDR: address(m.index) + "/24", ProviderID: "demo:///" + name},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}},
			NodeInfo:  corev1.NodeSystemInfo{MachineID: hex(m.identity, 16), KubeletVersion: "v1.36.3", OperatingSystem: "linux", Architecture: "amd64"},
		},
	}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, LastHeartbeatTime: when, Reason: "Kubelet" + string(t), Message: "kubelet has reported"})
	}
	for range 40 { // a kubelet reports at most 50
		image := "registry.example.com/" + m.base()
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{
			Names: []string{image + "@sha256:" + hex(m.identity, 32), image + ":v1.36.3"}, SizeBytes: int64(m.identity.IntN(1 << 30)),
		})
	}
	return Op{Key: "/registry/minions/" + name, Value: stored("v1", "Node", &n)}
}

func (m maker) configMap() Op {
	ns, name := m.namespaceName(), m.name()
	c := corev1.ConfigMap{ObjectMeta: m.meta(name, ns, name), Data: map[string]string{
		"config.yaml": settings(m.identity, size(m.identity, 300, 110_000)),
		"generation":  fmt.Sprint(m.generation),
	}}
	return Op{Key: "/registry/configmaps/" + ns + "/" + name, Value: stored("v1", "ConfigMap", &c)}
}

// secret makes a certificate, or one in four times a release of Helm, which is large and does not compress.
func (m maker) secret() Op {
	ns, name := m.namespaceName(), m.name()
	s := corev1.Secret{ObjectMeta: m.meta(name, ns, name)}
	if m.identity.IntN(4) == 0 {
		s.Type, s.Data = "helm.sh/release.v1", map[string][]byte{"release": encoded(m.identity, size(m.identity, 4_000, 250_000))}
	} else {
		s.Type, s.Data = corev1.SecretTypeTLS, map[string][]byte{
			corev1.TLSCertKey: encoded(m.identity, 1600), corev1.TLSPrivateKeyKey: encoded(m.identity, 1700),
		}
	}
	return Op{Key: "/registry/secrets/" + ns + "/" + name, Value: stored("v1", "Secret", &s)}
}

func (m maker) service() Op {
	ns, name := m.namespaceName(), m.name()
	ip := fmt.Sprintf("10.96.%d.%d", m.index>>8&255, m.index&255)
	s := corev1.Service{ObjectMeta: m.meta(name, ns, name), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, Selector: selector(name).MatchLabels,
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http"), Protocol: corev1.ProtocolTCP}},
	}}
	return Op{Key: "/registry/services/specs/" + ns + "/" + name, Value: stored("v1", "Service", &s)}
}

func (m maker) endpointSlice() Op {
	ns, name := m.namespaceName(), m.name()
	e := discoveryv1.EndpointSlice{
		ObjectMeta: m.meta(name, ns, name), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
	}
	for range 1 + m.identity.IntN(20) {
		e.Endpoints = append(e.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address(m.identity.IntN(1 << 20))}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: name + "-" + suffix(m.identity.IntN(1<<20), 5), UID: uid(m.identity)},
		})
	}
	return Op{Key: "/registry/endpointslices/" + ns + "/" + name, Value: stored("discovery.k8s.io/v1", "EndpointSlice", &e)}
}

func (m maker) serviceAccount() Op {
	ns, name := m.namespaceName(), m.name()
	s := corev1.ServiceAccount{ObjectMeta: m.meta(name, ns, name)}
	return Op{Key: "/registry/serviceaccounts/" + ns + "/" + name, Value: stored("v1", "ServiceAccount", &s)}
}

// lease makes the Lease by which a node or a controller says that it lives. It is an object, and no lease of etcd.
func (m maker) lease() Op {
	name := m.name()
	renewed := metav1.NewMicroTime(m.changed())
	l := coordinationv1.Lease{
		ObjectMeta: m.meta(name, "kube-node-lease", "node"),
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: new(int32(40)), RenewTime: &renewed},
	}
	return Op{Key: "/registry/leases/kube-node-lease/" + name, Value: stored("coordination.k8s.io/v1", "Lease", &l)}
}

func (m maker) event() Op {
	ns, about := m.namespaceName(), m.name()
	name := about + "." + hex(m.identity, 8)
	first, last := metav1.NewTime(m.created()), metav1.NewTime(m.changed())
	e := corev1.Event{
		ObjectMeta:     m.meta(name, ns, "event"),
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: ns, Name: about, UID: uid(m.identity)},
		Reason:         "BackOff", Message: "Back-off restarting failed container app in pod " + about + " of " + word(m.identity),
		Source: corev1.EventSource{Component: "kubelet", Host: m.anyNode()}, Type: corev1.EventTypeWarning,
		FirstTimestamp: first, LastTimestamp: last, Count: int32(m.generation + 1),
	}
	return Op{Key: "/registry/events/" + ns + "/" + name, Value: stored("v1", "Event", &e)}
}

func (m maker) roleBinding() Op {
	ns, name := m.namespaceName(), m.name()
	r := rbacv1.RoleBinding{
		ObjectMeta: m.meta(name, ns, name),
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: ns}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "view"},
	}
	return Op{Key: "/registry/rolebindings/" + ns + "/" + name, Value: stored("rbac.authorization.k8s.io/v1", "RoleBinding", &r)}
}

// rangeAllocation gives the bitmap of the service addresses that are taken.
func rangeAllocation(r *rand.Rand) []byte {
	return stored("v1", "RangeAllocation", &corev1.RangeAllocation{Range: "10.96.0.0/16", Data: random(r, 8192)})
}
