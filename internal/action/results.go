package action

import (
	"fmt"
	"strings"
)

// Results is what an action hands back: a tree of string values. Inner nodes are map[string]any, so that renderers
// and JSON see plain maps.
type Results map[string]any

// Set stores value under a dotted key, the way Juju's action-set does: the parts of the key name nested maps, and the
// later call wins where a value meets a map. A key whose parts are not valid names is a bug of the action and panics.
// Bytes of value that are not UTF-8 are replaced.
func (r Results) Set(key, value string) {
	parts := strings.Split(key, ".")
	for _, part := range parts {
		if !ValidName(part) {
			panic(fmt.Sprintf("result key %q: %q is not a valid name", key, part))
		}
	}
	node := map[string]any(r)
	for _, part := range parts[:len(parts)-1] {
		inner, isMap := node[part].(map[string]any)
		if !isMap {
			inner = map[string]any{}
			node[part] = inner
		}
		node = inner
	}
	node[parts[len(parts)-1]] = strings.ToValidUTF8(value, "\uFFFD")
}

// Get gives the value under a dotted key, and whether there is one. A map is not a value.
func (r Results) Get(key string) (value string, found bool) {
	parts := strings.Split(key, ".")
	node := map[string]any(r)
	for _, part := range parts[:len(parts)-1] {
		node, _ = node[part].(map[string]any)
	}
	value, found = node[parts[len(parts)-1]].(string)
	return value, found
}

func (r Results) clone() Results { return cloneTree(r) }

func cloneTree(tree map[string]any) map[string]any {
	if tree == nil {
		return nil
	}
	copied := make(map[string]any, len(tree))
	for key, value := range tree {
		if inner, isMap := value.(map[string]any); isMap {
			value = cloneTree(inner)
		}
		copied[key] = value
	}
	return copied
}
