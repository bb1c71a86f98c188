// Command holdfast keeps the state of a Kubernetes cluster, which lives in etcd, safe and recoverable. Everything is in
// the internal packages; this is the program's edge: signals, streams, exit code.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/holdfast-project/holdfast/internal/cli"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	if !cli.LeavesSignals(os.Args[1:]) {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
		go func() { cancel(cli.SignalError{Signal: <-signals}) }()
	}
	os.Exit(cli.Run(ctx, cli.Environment{
		Args: os.Args[1:], Program: filepath.Base(os.Args[0]),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
	}))
}
