package restore

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// lastWords is how long etcd's code may go on after it has given up.
const lastWords = 2 * time.Second

// runEtcd runs code of etcd that reports what it cannot handle, such as a full disk in the middle of a commit, by a log
// line that ends the process. Here it ends only the goroutine and becomes an error. Nothing is printed.
//
// etcd's code may then hang on a lock that it still holds. After lastWords runEtcd leaves it behind, with the files that
// it has open; they and their disk space are given back when this process ends.
func runEtcd(f func(*zap.Logger) error) error {
	quit := make(chan error, 1)
	log := zap.NewNop().WithOptions(zap.WithFatalHook(giveUp(quit)), zap.WithPanicHook(giveUp(quit)))
	done := make(chan error, 1)
	go func() {
		defer func() {
			if cause := recover(); cause != nil {
				done <- fmt.Errorf("etcd gave up: %v", cause)
			}
			close(done) // Also when the goroutine was ended.
		}()
		done <- f(log)
	}()
	select {
	case err := <-quit:
		timeout := time.NewTimer(lastWords)
		defer timeout.Stop()
		select {
		case <-done:
		case <-timeout.C:
		}
		return err
	case err, ended := <-done:
		select {
		case cause := <-quit: // It is the reason for whatever else went wrong.
			return cause
		default:
		}
		if !ended {
			return errors.New("etcd gave up without a word")
		}
		return err
	}
}

// giveUp is what a log line that would end the process does instead.
type giveUp chan<- error

// OnWrite passes on the first such line and ends the goroutine.
func (g giveUp) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := fmt.Errorf("etcd gave up: %s", entry.Message)
	for _, field := range fields {
		if cause, ok := field.Interface.(error); ok {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	select {
	case g <- err:
	default:
	}
	runtime.Goexit()
}
