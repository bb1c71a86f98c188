package juju

import (
	"errors"
	"strings"
	"testing"
)

func TestParseRequest(t *testing.T) {
	const badKey = " must start and end with lowercase alphanumeric, and contain only lowercase alphanumeric and hyphens"
	for _, test := range []struct {
		words   string
		dialect Dialect
		units   string
		action  string
		err     string
	}{
		{words: "etcd/0 snapshot", units: "etcd/0", action: "snapshot"},
		{words: "etcd/0 etcd/12 snapshot keys-version=v3 target=/a", units: "etcd/0 etcd/12", action: "snapshot"},
		{words: "etcd/leader restore", units: "etcd/leader", action: "restore"},
		{words: "etcd/0 other/0 health", units: "etcd/0 other/0", action: "health"},
		{words: "etcd/0 00-action", units: "etcd/0", action: "00-action"},
		{words: "new-etcd/0 health a=this=is=weird= b=", units: "new-etcd/0", action: "health"},

		{words: "", err: "no unit specified"},
		{words: "snapshot", err: "no unit specified"},
		{words: "snapshot etcd/0", err: "no unit specified"},
		{words: "etcd/0", err: "no action specified"},
		{words: "etcd/0 etcd/1", err: "no action specified"},
		{words: "etcd/0 etcd/0 health", err: `unit "etcd/0" specified twice`},
		{words: "something-strange- health", err: `invalid unit or action name "something-strange-"`},
		{words: "etcd/0 something-strange- health", err: `invalid unit or action name "something-strange-"`},
		{words: "etcd/0 BadName", err: `invalid unit or action name "BadName"`},
		{words: "etcd/00 health", err: `invalid unit or action name "etcd/00"`},
		{words: "etcd/-1 health", err: `invalid unit or action name "etcd/-1"`},
		{words: "Etcd/leader health", err: `invalid unit or action name "Etcd/leader"`},
		{words: "etcd/0 juju-run", err: `invalid unit or action name "juju-run"`},
		{words: "etcd/0 health uh", err: `argument "uh" must be of the form key...=value`},
		{words: "etcd/0 health uh", dialect: Juju3, err: `argument "uh" must be of the form key.key.key...=value`},
		{words: "etcd/0 health foo.Baz=3", err: `key "Baz"` + badKey},
		{words: "etcd/0 health no-go?od=3", err: `key "no-go?od"` + badKey},
		{words: "etcd/0 health =3", err: `key ""` + badKey},
		{words: "etcd/0 health a..b=3", err: `key ""` + badKey},
		{words: "etcd/0 other/0 health", dialect: Juju3, err: "all units must be of the same application"},
		{words: "app1/leader app2/0 health", dialect: Juju3, err: "all units must be of the same application"},
		// The words that stay of "--wait 10s" with a space, at three places.
		{words: "etcd/0 snapshot 10s", err: `argument "10s" must be of the form key...=value`},
		{words: "etcd/0 10s snapshot", err: `argument "snapshot" must be of the form key...=value`},
		{words: "10s etcd/0 snapshot", err: "no unit specified"},
	} {
		t.Run(test.words, func(t *testing.T) {
			r, err := ParseRequest(test.dialect, strings.Fields(test.words))
			if test.err != "" {
				checkUsage(t, err, test.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var units []string
			for _, ref := range r.Units {
				units = append(units, ref.String())
			}
			same(t, strings.Join(units, " "), test.units)
			same(t, r.Action, test.action)
		})
	}
}

// checkUsage checks the text of an error and that it makes the exit code 2.
func checkUsage(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %q", want)
	}
	same(t, err.Error(), want)
	if _, ok := errors.AsType[*UsageError](err); !ok {
		t.Errorf("error %v is a %T, want a *UsageError", err, err)
	}
	if code := ErrorExitCode(err); code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
}
