package juju

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParams(t *testing.T) {
	const file = "out: name\ncompression:\n  kind: xz\n  quality: high\n  1s: [a, {b: c}]\n"
	for _, test := range []struct {
		name  string
		words string
		o     ParamOptions
		want  map[string]any
	}{
		{name: "none", want: map[string]any{}},
		{
			name:  "values are YAML",
			words: "a=y b=3 c=v3 d=0.5 e=~ f=[1,two] g={h:x} h=2018-09-26 i='3' j=a=b= k=",
			want: map[string]any{
				"a": true, "b": 3, "c": "v3", "d": 0.5, "e": nil, "f": []any{1, "two"}, "g": map[string]any{"h:x": nil},
				"h": "2018-09-26", "i": "3", "j": "a=b=", "k": "",
			},
		},
		{
			name:  "values are strings",
			words: "a=y b=3 c.d=[1 e=",
			o:     ParamOptions{StringArgs: true},
			want:  map[string]any{"a": "y", "b": "3", "c": map[string]any{"d": "[1"}, "e": ""},
		},
		{
			name:  "declared as strings",
			words: "a=0 b=3.10 c='3' d=yes e=[x f.a=0 g=0",
			o:     ParamOptions{Text: []string{"a", "b", "c", "d", "e", "f"}},
			want: map[string]any{
				"a": "0", "b": "3.10", "c": "3", "d": "yes", "e": "[x", "f": map[string]any{"a": 0}, "g": 0,
			},
		},
		{
			name: "file",
			o:    ParamOptions{File: []byte(file), StringArgs: true},
			want: map[string]any{
				"out": "name",
				"compression": map[string]any{
					"kind": "xz", "quality": "high", "1s": []any{"a", map[string]any{"b": "c"}},
				},
			},
		},
		{
			name:  "arguments override the file",
			words: "out.name=bar out.kind=tmpfs compression.quality.speed=high compression.kind=gz compression.1s=no",
			o:     ParamOptions{File: []byte(file)},
			want: map[string]any{
				"out": map[string]any{"name": "bar", "kind": "tmpfs"},
				"compression": map[string]any{
					"kind": "gz", "quality": map[string]any{"speed": "high"}, "1s": false,
				},
			},
		},
		{name: "later scalar replaces map", words: "a.b=1 a=2", want: map[string]any{"a": 2}},
		{name: "later map replaces scalar", words: "a=2 a.b.c=1", want: map[string]any{
			"a": map[string]any{"b": map[string]any{"c": 1}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := request(t, strings.Fields(test.words)...).Params(test.o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("params differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParamsRefused(t *testing.T) {
	const notMap = "params must contain a YAML map with string keys"
	for _, test := range []struct {
		name string
		word string
		file string
		want string
	}{
		{name: "file is a list", file: "[a, b]", want: notMap},
		{name: "file is a word", file: "word", want: notMap},
		{name: "file is empty", file: "", want: notMap},
		{name: "file has a number as key", file: "a: {1: b}", want: notMap},
		{name: "file has a number as key in a list", file: "a: [{1: b}]", want: notMap},
		{name: "file has a key twice", file: "a: 1\na: 2", want: `key "a" already set in map`},
		{name: "file is no YAML", file: "a:\n  foo:\n    foo\n    bar: baz\n", want: "mapping values are not allowed"},
		{name: "value has a number as key", word: "a={1: b}", file: "b: 1", want: notMap},
		{name: "value is no YAML", word: `foo.bar="`, file: "b: 1", want: `parse value of "foo.bar": yaml: `},
	} {
		t.Run(test.name, func(t *testing.T) {
			var words []string
			if test.word != "" {
				words = []string{test.word}
			}
			got, err := request(t, words...).Params(ParamOptions{File: []byte(test.file)})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, %v, want an error with %q", got, err, test.want)
			}
			if code := ErrorExitCode(err); code != 1 {
				t.Errorf("exit code %d, want 1: the command line itself is well formed", code)
			}
		})
	}
}

func request(t *testing.T, words ...string) Request {
	t.Helper()
	r, err := ParseRequest(Legacy, append([]string{"etcd/0", "snapshot"}, words...))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
