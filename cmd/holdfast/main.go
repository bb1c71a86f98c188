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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, cli.Environment{
		Args: os.Args[1:], Program: filepath.Base(os.Args[0]),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
	})
	stop()
	os.Exit(code)
}
