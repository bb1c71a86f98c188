package action

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var snapshotSpec = Spec{
	Name:        "snapshot",
	Description: "Take a snapshot.",
	Params: []Param{
		{Name: "target", Type: String, Default: "/home/ubuntu/etcd-snapshots", Description: "Where to."},
		{Name: "bump", Type: Boolean, Default: true},
		{Name: "revision", Type: Integer},
		{Name: "ratio", Type: Number, Default: 1},
	},
}

func TestSpecCheck(t *testing.T) {
	defaults := func(over Params) Params {
		p := Params{"target": "/home/ubuntu/etcd-snapshots", "bump": true, "ratio": 1.0}
		for k, v := range over {
			p[k] = v
		}
		return p
	}
	tests := []struct {
		name  string
		given map[string]any
		want  Params
		err   string
	}{
		{"nothing", nil, defaults(nil), ""},
		{"all", map[string]any{"target": "/x", "bump": false, "revision": 5, "ratio": 2.5},
			Params{"target": "/x", "bump": false, "revision": int64(5), "ratio": 2.5}, ""},
		{"empty string", map[string]any{"target": ""}, defaults(Params{"target": ""}), ""},
		{"integer as float", map[string]any{"revision": 3.0}, defaults(Params{"revision": int64(3)}), ""},
		{"big integer", map[string]any{"revision": int64(math.MaxInt64)},
			defaults(Params{"revision": int64(math.MaxInt64)}), ""},
		{"number as integer", map[string]any{"ratio": int64(7)}, defaults(Params{"ratio": 7.0}), ""},
		{"integer for string", map[string]any{"target": 3}, nil,
			"validation failed: (root).target : must be of type string, given 3"},
		{"bool for string", map[string]any{"target": false}, nil,
			"validation failed: (root).target : must be of type string, given false"},
		{"null for string", map[string]any{"target": nil}, nil,
			"validation failed: (root).target : must be of type string, given null"},
		{"map for string", map[string]any{"target": map[string]any{"a": 1}}, nil,
			`validation failed: (root).target : must be of type string, given {"a":1}`},
		{"map that JSON cannot say", map[string]any{"target": map[any]any{1: 2}}, nil,
			`validation failed: (root).target : must be of type string, given map[1:2]`},
		{"string for boolean", map[string]any{"bump": "yes"}, nil,
			`validation failed: (root).bump : must be of type boolean, given "yes"`},
		{"string for integer", map[string]any{"revision": "3"}, nil,
			`validation failed: (root).revision : must be of type integer, given "3"`},
		{"float for integer", map[string]any{"revision": 3.5}, nil,
			`validation failed: (root).revision : must be of type integer, given 3.5`},
		{"float past int64", map[string]any{"revision": math.Ldexp(1, 63)}, nil,
			`validation failed: (root).revision : must be of type integer, given 9223372036854776000`},
		{"unsigned past int64", map[string]any{"revision": uint64(math.MaxUint64)}, nil,
			`validation failed: (root).revision : must be of type integer, given 18446744073709551615`},
		{"bool for number", map[string]any{"ratio": true}, nil,
			`validation failed: (root).ratio : must be of type number, given true`},
		{"not a number", map[string]any{"ratio": math.NaN()}, nil,
			`validation failed: (root).ratio : must be of type number, given NaN`},
		{"undeclared", map[string]any{"foo": "bar"}, nil,
			`validation failed: (root) : additional property "foo" is not allowed, given {"foo":"bar"}`},
		{"several, in a fixed order", map[string]any{"target": 1, "zoo": 1, "bump": 2, "a": 1}, nil,
			`validation failed: (root) : additional property "a" is not allowed, given {"a":1,"bump":2,"target":1,"zoo":1}; ` +
				`(root) : additional property "zoo" is not allowed, given {"a":1,"bump":2,"target":1,"zoo":1}; ` +
				`(root).bump : must be of type boolean, given 2; (root).target : must be of type string, given 1`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := snapshotSpec.Check(test.given)
			if test.err == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else {
				var class *ParamsError
				if !errors.As(err, &class) || err.Error() != test.err {
					t.Errorf("error %T\n %v\nwant\n %s", err, err, test.err)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSpecSchema(t *testing.T) {
	want := map[string]any{
		"title":                "snapshot",
		"description":          "Take a snapshot.",
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			"target": map[string]any{
				"type": "string", "default": "/home/ubuntu/etcd-snapshots", "description": "Where to."},
			"bump":     map[string]any{"type": "boolean", "default": true, "description": ""},
			"revision": map[string]any{"type": "integer", "description": ""},
			"ratio":    map[string]any{"type": "number", "default": 1, "description": ""},
		},
	}
	if diff := cmp.Diff(want, snapshotSpec.Schema()); diff != "" {
		t.Error(diff)
	}
}

func TestSpecValidate(t *testing.T) {
	if err := snapshotSpec.validate(); err != nil {
		t.Error(err)
	}
	tests := []struct {
		spec Spec
		err  string
	}{
		{Spec{Name: "Snap"}, `action "Snap": not a valid name`},
		{Spec{Name: "juju-run"}, `action "juju-run": not a valid name`},
		{Spec{Name: "a", Params: []Param{{Name: "b_c", Type: String}}}, `action "a": parameter "b_c": not a valid name`},
		{Spec{Name: "a", Params: []Param{{Name: "b", Type: String}, {Name: "b", Type: String}}},
			`action "a": parameter "b" is declared twice`},
		{Spec{Name: "a", Params: []Param{{Name: "b"}}}, `action "a": parameter "b": unknown type ""`},
		{Spec{Name: "a", Params: []Param{{Name: "b", Type: Integer, Default: "1"}}},
			`default of parameter "b" of action "a" is not of type integer`},
	}
	for _, test := range tests {
		if err := test.spec.validate(); err == nil || err.Error() != test.err {
			t.Errorf("%+v: %v, want %s", test.spec, err, test.err)
		}
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "snapshot": true, "alarm-list": true, "0": true, "a--b": true, "v2": true, "jujube": true,
		"": false, "-a": false, "a-": false, "A": false, "a_b": false, "a.b": false, "a b": false,
		"juju": false, "juju-run": false, "a\n": false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) = %v", name, got)
		}
	}
}

func TestParamsKeepWholeNumbers(t *testing.T) {
	given := Params{"revision": int64(math.MaxInt64 - 1), "ratio": 2.0, "half": 0.5, "target": "<x>", "bump": true}
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	var got Params
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Int("revision") != math.MaxInt64-1 || got.Float("ratio") != 2 || got.Float("half") != 0.5 ||
		got.String("target") != "<x>" || !got.Bool("bump") {
		t.Errorf("%s came back as %#v", text, got)
	}
	if got.Int("other") != 0 || got.String("other") != "" || got.Bool("other") || got.Float("other") != 0 {
		t.Error("a parameter that was left out is not zero")
	}
	if got.Has("other") || !got.Has("bump") {
		t.Error("Has is wrong")
	}
	if err := json.Unmarshal([]byte(`[1]`), &got); err == nil {
		t.Error("a list was read as parameters")
	}
	if err := json.Unmarshal([]byte(`{"a":1e999}`), &got); err == nil {
		t.Error("a number that is out of range was read")
	}
}
