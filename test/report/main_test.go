package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for name, tt := range map[string]struct {
		in   string
		good bool
		want string
	}{
		"all pass": {`{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`, true, "ok  \tp\t0.1s\n1 passed, 0 failed, 0 skipped\n"},
		"one fails": {`{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"the reason\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`, false, "the reason\nFAIL\tp\t0.1s\n1 passed, 1 failed, 0 skipped\n"},
		"one skips": {`{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"not here\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}
`, false, "not here\n1 tests were skipped; here a test that lacks something fails\n1 passed, 0 failed, 1 skipped\n"},
		"process dies in a test": {`{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"panic: oh\n"}
{"Action":"fail","Package":"p"}
`, false, "panic: oh\n1 packages did not build or ended early\n1 passed, 1 failed, 0 skipped\n"},
		"does not build": {`{"Action":"build-output","ImportPath":"q","Output":"q.go:1: no\n"}
{"Action":"build-fail","ImportPath":"q"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"q","Output":"FAIL\tq [build failed]\n"}
{"Action":"fail","Package":"q","FailedBuild":"q"}
`, false, "q.go:1: no\nFAIL\tq [build failed]\n1 packages did not build or ended early\n1 passed, 1 failed, 0 skipped\n"},
		"nothing":  {"", false, "no test ran\n0 passed, 0 failed, 0 skipped\n"},
		"not JSON": {"go: cannot find main module\n", false, "go: cannot find main module\nno test ran\n0 passed, 0 failed, 0 skipped\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			r := &report{out: &out, output: map[string]*strings.Builder{}, failedWithin: map[string]bool{}}
			if err := r.read(strings.NewReader(tt.in)); err != nil {
				t.Fatal(err)
			}
			if good := r.finish(); good != tt.good || out.String() != tt.want {
				t.Errorf("good is %v, printed:\n%s", good, out.String())
			}
		})
	}
}
