package main

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// What others do for the same purpose: a watch is written as files of events, JSON with base64 in it, packed by gzip. For a
// restore a server is started without syncs on the restored snapshot, and every revision is written to it once more, one
// transaction after the other.

// deltaEvent is one event of such a file.
type deltaEvent struct {
	Delete      bool   `json:"delete,omitempty"`
	Key         []byte `json:"key"`
	Value       []byte `json:"value,omitempty"`
	ModRevision int64  `json:"mod-revision"`
}

// deltaBytes is how many bytes of keys and values a file has, about.
const deltaBytes = 10 << 20

// deltas are files of events in a folder, in order.
type deltas struct {
	folder string
	files  []string
	events int64
	bytes  int64 // of the files
	at     int64 // revision of the last event that was written

	pending []deltaEvent
	size    int
}

// record watches all keys from a revision on and writes what comes, until revision end, which done gives, is there.
func (d *deltas) record(ctx context.Context, client *clientv3.Client, from int64, done <-chan int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := int64(0)
	watch := client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(from), clientv3.WithFragment())
	for end == 0 || d.at < end {
		select {
		case end = <-done:
		case reply, more := <-watch:
			if err := reply.Err(); err != nil || !more {
				return errors.Join(errors.New("the watch has ended"), err)
			}
			if err := d.take(reply.Events); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return d.flush()
}

func (d *deltas) take(events []*clientv3.Event) error {
	for _, e := range events {
		// A file ends with a revision.
		if d.size >= deltaBytes && e.Kv.ModRevision > d.at {
			if err := d.flush(); err != nil {
				return err
			}
		}
		d.pending = append(d.pending, deltaEvent{Delete: e.Type == clientv3.EventTypeDelete, Key: e.Kv.Key, Value: e.Kv.Value, ModRevision: e.Kv.ModRevision})
		d.size += len(e.Kv.Key) + len(e.Kv.Value)
		d.events++
		d.at = e.Kv.ModRevision
	}
	return nil
}

func (d *deltas) flush() error {
	if len(d.pending) == 0 {
		return nil
	}
	path := filepath.Join(d.folder, fmt.Sprintf("%06d.gz", len(d.files)))
	if err := writeDelta(path, d.pending); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	d.files, d.bytes, d.pending, d.size = append(d.files, path), d.bytes+info.Size(), nil, 0
	return nil
}

func writeDelta(path string, events []deltaEvent) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return encodeDelta(file, events)
}

func encodeDelta(w io.Writer, events []deltaEvent) error {
	packed := gzip.NewWriter(w)
	return errors.Join(json.NewEncoder(packed).Encode(events), packed.Close())
}

func readDelta(path string) (events []deltaEvent, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	plain, err := gzip.NewReader(file)
	if err != nil {
		return nil, err
	}
	return events, json.NewDecoder(plain).Decode(&events)
}

// apply writes the events to a server, each revision as one transaction after the one before.
func (d *deltas) apply(ctx context.Context, client *clientv3.Client) error {
	revision := int64(0)
	var ops []clientv3.Op
	commit := func() error {
		if len(ops) == 0 {
			return nil
		}
		reply, err := client.Txn(ctx).Then(ops...).Commit()
		if err == nil && reply.Header.Revision != revision {
			err = fmt.Errorf("revision %d became %d", revision, reply.Header.Revision)
		}
		ops = ops[:0]
		return err
	}
	for _, file := range d.files {
		events, err := readDelta(file)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.ModRevision != revision {
				if err := commit(); err != nil {
					return err
				}
				revision = e.ModRevision
			}
			if e.Delete {
				ops = append(ops, clientv3.OpDelete(string(e.Key)))
			} else {
				ops = append(ops, clientv3.OpPut(string(e.Key), string(e.Value)))
			}
		}
	}
	return commit()
}

// restoreDeltas makes a data dir of a snapshot and the events after it. The server that it leaves is the caller's to close.
// The figures get what etcdutl, the server and this process spent.
func (l *lab) restoreDeltas(ctx context.Context, d *deltas, snapshot, dir string, f figures) (*etcdtest.Server, error) {
	data := filepath.Join(dir, "data")
	command := l.etcd.RestoreCommand(ctx, snapshot, data, "--name=m1", "--initial-cluster=m1=http://localhost:2380")
	if err := tool(command, f, "etcdutl"); err != nil {
		return nil, err
	}
	before, err := ownCPU()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	server, err := etcdtest.Launch(ctx, l.etcd, dir, etcdtest.Options{DataDir: data, Args: []string{"--unsafe-no-fsync", "--quota-backend-bytes=8589934592"}})
	if err != nil {
		return nil, err
	}
	if err := d.apply(ctx, server.Client); err != nil {
		return server, err
	}
	f["apply_s"] = time.Since(began).Seconds()
	after, err := ownCPU()
	if err != nil {
		return server, err
	}
	served, err := cpuTime(server.PID())
	f["client-cpu_s"], f["etcd-cpu_s"] = after-before, served
	f["cpu_s"] += after - before + served
	return server, err
}

// ownCPU is what this process has spent so far, in seconds.
func ownCPU() (float64, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds(), nil
}
