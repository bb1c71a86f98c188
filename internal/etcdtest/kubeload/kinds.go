package kubeload

// kind is a kind of object that the load has.
type kind int

const (
	definition kind = iota
	namespace
	node
	pod
	replicaSet
	deployment
	configMap
	secret
	service
	endpointSlice
	serviceAccount
	lease
	event
	customResource
	job
	roleBinding
	nodeLease
	controllerLease
	autoscaler
)

// shares tells how many of each hundred objects are of a kind.
var shares = []struct {
	kind  kind
	count int
}{
	{namespace, 1}, {node, 1}, {pod, 26}, {replicaSet, 5}, {deployment, 5}, {configMap, 10}, {secret, 8}, {service, 4},
	{endpointSlice, 4}, {serviceAccount, 4}, {lease, 3}, {event, 18}, {customResource, 6}, {job, 2}, {roleBinding, 3},
}

// kindOf tells the kind of object i: the definitions come first, then the kinds take turns, scattered so that no
// hundred begins with all its pods.
func kindOf(i int) kind {
	if i < len(definitions) {
		return definition
	}
	const scatter = 37 // no common factor with 100: visits each place of a hundred once
	const shift = 50   // keeps the places of the definitions among the common kinds
	place := (i*scatter + shift) % 100
	for _, s := range shares {
		if place < s.count {
			return s.kind
		}
		place -= s.count
	}
	panic("kubeload: the shares do not add up to 100")
}
