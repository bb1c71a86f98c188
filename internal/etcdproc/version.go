package etcdproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// versionLine is the line of `etcd --version`, the same in all minors. The server's own version may have a suffix.
var versionLine = regexp.MustCompile(`(?m)^etcd Version: (\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?)\r?$`)

// versionTimeout bounds what a program takes to tell its version, on a machine that is very busy.
const versionTimeout = 30 * time.Second

// BinaryVersion asks an etcd server program for its version, such as "3.5.35".
func BinaryVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"} // None of ours: ETCD_ variables are options to it.
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return "", fmt.Errorf("ask %q for its version: %w", path, err)
	}
	match := versionLine.FindSubmatch(out.Bytes())
	if match == nil {
		first, _, _ := strings.Cut(out.String(), "\n")
		return "", fmt.Errorf("ask %q for its version: it is no etcd server: it says %.80q", path, first)
	}
	return string(match[1]), nil
}

// SupportedMinors are the etcd minors that a unit can run.
func SupportedMinors() []string { return []string{"3.4", "3.5", "3.6", "3.7"} }

// CheckSupported refuses a server version that a unit cannot run.
func CheckSupported(version string) error {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	if !slices.Contains(SupportedMinors(), major+"."+minor) {
		return fmt.Errorf("etcd %q is not supported, want one of %s", version, strings.Join(SupportedMinors(), ", "))
	}
	return nil
}
