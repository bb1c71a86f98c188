package juju

import (
	"testing"
	"time"
)

func TestWaits(t *testing.T) {
	const tooShort = "timeout must be greater or equal to 1 ms"
	given := func(text string) WaitFlags { return WaitFlags{Given: true, Text: text} }
	forever := Wait{Waits: true}
	limited := func(d time.Duration) Wait { return Wait{Waits: true, Limit: d} }
	for _, test := range []struct {
		name  string
		read  func(WaitFlags) (Wait, error)
		flags WaitFlags
		want  Wait
		err   string
	}{
		{name: "run-action", read: RunActionWait, flags: WaitFlags{}, want: Wait{}},
		{name: "run-action", read: RunActionWait, flags: given(""), want: forever},
		{name: "run-action", read: RunActionWait, flags: given("true"), want: forever},
		{name: "run-action", read: RunActionWait, flags: given("false"), want: Wait{}},
		{name: "run-action", read: RunActionWait, flags: given("30s"), want: limited(30 * time.Second)},
		{name: "run-action", read: RunActionWait, flags: given("1ms"), want: limited(time.Millisecond)},
		{name: "run-action", read: RunActionWait, flags: given("1us"), err: tooShort},
		{name: "run-action", read: RunActionWait, flags: given("-1s"), err: tooShort},
		{name: "run-action", read: RunActionWait, flags: given("soon"),
			err: `invalid value "soon" for option --wait: time: invalid duration "soon"`},

		{name: "run", read: RunWait, flags: WaitFlags{}, want: limited(time.Minute)},
		{name: "run", read: RunWait, flags: given("20s"), want: limited(20 * time.Second)},
		{name: "run", read: RunWait, flags: given("0s"), err: tooShort},
		{name: "run", read: RunWait, flags: WaitFlags{Background: true}, want: Wait{}},
		{name: "run", read: RunWait, flags: WaitFlags{Background: true, Given: true, Text: "60s"},
			err: "cannot specify both --wait and --background"},

		{name: "show", read: ShowWait, flags: WaitFlags{}, want: Wait{}},
		{name: "show", read: ShowWait, flags: WaitFlags{Watch: true}, want: forever},
		{name: "show", read: ShowWait, flags: given("0"), want: forever},
		{name: "show", read: ShowWait, flags: given("0s"), want: forever},
		{name: "show", read: ShowWait, flags: given("90"), want: limited(90 * time.Second)},
		{name: "show", read: ShowWait, flags: given("1.5"), want: limited(1500 * time.Millisecond)},
		{name: "show", read: ShowWait, flags: given("2m"), want: limited(2 * time.Minute)},
		{name: "show", read: ShowWait, flags: given(""),
			err: `invalid value "" for option --wait: time: invalid duration ""`},
		{name: "show", read: ShowWait, flags: given("-1"), want: Wait{}},
		{name: "show", read: ShowWait, flags: given("-1s"), want: Wait{}},
		{name: "show", read: ShowWait, flags: given("Inf"),
			err: `invalid value "Inf" for option --wait: time: invalid duration "Inf"`},
		{name: "show", read: ShowWait, flags: WaitFlags{Watch: true, Given: true, Text: "0s"},
			err: "specify either --watch or --wait but not both"},
	} {
		t.Run(test.name+" "+test.flags.Text, func(t *testing.T) {
			got, err := test.read(test.flags)
			if test.err != "" {
				checkUsage(t, err, test.err)
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v, want %+v", got, err, test.want)
			}
		})
	}
}
