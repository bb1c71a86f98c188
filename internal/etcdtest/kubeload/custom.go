package kubeload

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// definitions are the custom resources that the cluster knows.
var definitions = []struct{ group, plural, kind string }{
	{"demo.example.com", "widgets", "Widget"},
	{"certs.example.com", "certificates", "Certificate"},
	{"monitoring.example.com", "servicemonitors", "ServiceMonitor"},
}

// definition makes the CustomResourceDefinition. API servers still store those as v1beta1, and always as JSON.
func (m maker) definition() Op {
	d := definitions[m.index]
	name := d.plural + "." + d.group
	return Op{
		Key: "/registry/apiextensions.k8s.io/customresourcedefinitions/" + name,
		Value: document(map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1beta1",
			"kind":       "CustomResourceDefinition",
			"metadata":   m.jsonMeta(name, ""),
			"spec": map[string]any{
				"group": d.group, "version": "v1", "scope": "Namespaced", "preserveUnknownFields": false,
				"names":    map[string]any{"plural": d.plural, "singular": d.plural[:len(d.plural)-1], "kind": d.kind, "listKind": d.kind + "List"},
				"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true}},
				"validation": map[string]any{"openAPIV3Schema": map[string]any{
					"type": "object", "x-kubernetes-preserve-unknown-fields": true,
				}},
			},
			"status": map[string]any{"storedVersions": []any{"v1"}},
		}),
	}
}

// customResource makes an object of one of the definitions, in JSON. Some hold the marks of other encodings inside,
// which must not be taken for the encoding of the whole.
func (m maker) customResource() Op {
	d := definitions[m.identity.IntN(len(definitions))]
	ns, name := m.namespaceName(), m.name()
	spec := map[string]any{
		"replicas": m.identity.IntN(9), "owner": word(m.identity), "notes": settings(m.identity, size(m.identity, 200, 6000)),
		"limits": map[string]any{"max": 9007199254740993, "ratio": 0.25}, // the first is past what a float64 can hold
	}
	if m.identity.IntN(10) == 0 {
		spec["marker"] = "k8s\x00 and k8s:enc:aesgcm:v1:key1: \u0085 <&>"
	}
	return Op{
		Key: fmt.Sprintf("/registry/%s/%s/%s/%s", d.group, d.plural, ns, name),
		Value: document(map[string]any{
			"apiVersion": d.group + "/v1", "kind": d.kind, "metadata": m.jsonMeta(name, ns), "spec": spec,
			"status": map[string]any{"observedGeneration": m.generation + 1, "phase": word(m.state)},
		}),
	}
}

func (m maker) jsonMeta(name, ns string) map[string]any {
	meta := map[string]any{
		"name": name, "uid": string(uid(m.identity)), "generation": m.generation + 1,
		"creationTimestamp": m.created().UTC().Format(time.RFC3339), "labels": m.labels(word(m.identity)),
	}
	if ns != "" {
		meta["namespace"] = ns
	}
	return meta
}

// document encodes as an API server stores JSON: keys sorted, a line feed at the end.
func document(v map[string]any) []byte {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		panic("kubeload: encode custom resource: " + err.Error()) // only maps, texts and numbers come here
	}
	return b.Bytes()
}
