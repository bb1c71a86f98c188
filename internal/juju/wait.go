package juju

import "time"

// Wait says whether and how long a command waits for its tasks to end. The zero value does not wait.
type Wait struct {
	// Waits is false when the command returns at once with what it has.
	Waits bool
	// Limit is the longest wait; 0 is without limit.
	Limit time.Duration
}

const (
	// DefaultRunWait is how long Juju 3's run waits when nothing is said.
	DefaultRunWait = 60 * time.Second
	// minWait is the shortest wait that Juju takes for running an action.
	minWait = time.Millisecond
)

// WaitFlags are the flags about waiting as they were given.
type WaitFlags struct {
	// Given tells whether --wait was there at all.
	Given bool
	// Text is the value of --wait; empty for a bare one.
	Text string
	// Background is run's --background.
	Background bool
	// Watch is the --watch of the show commands.
	Watch bool
}

// RunActionWait reads the --wait of run-action: absent, bare, or with a duration as in --wait=30s. Bare waits without
// limit. As a flag that can stand alone, it takes its duration after "=" only.
func RunActionWait(flags WaitFlags) (Wait, error) {
	switch {
	case !flags.Given || flags.Text == "false":
		return Wait{}, nil
	case flags.Text == "" || flags.Text == "true":
		return Wait{Waits: true}, nil
	default:
		return limitedWait(flags.Text)
	}
}

// RunWait reads the --wait and --background of run. Without either it waits DefaultRunWait.
func RunWait(flags WaitFlags) (Wait, error) {
	switch {
	case flags.Given && flags.Background:
		return Wait{}, usagef("cannot specify both --wait and --background")
	case flags.Background:
		return Wait{}, nil
	case !flags.Given:
		return Wait{Waits: true, Limit: DefaultRunWait}, nil
	default:
		return limitedWait(flags.Text)
	}
}

func limitedWait(text string) (Wait, error) {
	limit, err := time.ParseDuration(text)
	if err != nil {
		return Wait{}, waitUsage(text, err)
	}
	if limit < minWait {
		return Wait{}, usagef("timeout must be greater or equal to 1 ms")
	}
	return Wait{Waits: true, Limit: limit}, nil
}

// ShowWait reads the --wait and --watch of show-action-output, show-operation and show-task. A bare number is in
// seconds; 0 waits without limit, as --watch does; a negative duration and no flag at all do not wait.
func ShowWait(flags WaitFlags) (Wait, error) {
	switch {
	case flags.Given && flags.Watch:
		return Wait{}, usagef("specify either --watch or --wait but not both")
	case flags.Watch:
		return Wait{Waits: true}, nil
	case !flags.Given:
		return Wait{}, nil
	}
	text := flags.Text
	if n := len(text); n > 0 && leadingDigits(text[n-1:]) != "" {
		text += "s"
	}
	limit, err := time.ParseDuration(text)
	if err != nil {
		return Wait{}, waitUsage(flags.Text, err)
	}
	if limit < 0 {
		return Wait{}, nil
	}
	return Wait{Waits: true, Limit: limit}, nil
}

func waitUsage(text string, cause error) error {
	return usagef("invalid value %q for option --wait: %v", text, cause)
}
