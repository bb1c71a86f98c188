package seal

import (
	"fmt"
	"runtime"
	"sync"
)

// halt ends the goroutines of a Writer or a Reader, for the first reason that is given.
type halt struct {
	once sync.Once
	done chan struct{}
	err  error // set before done is closed
}

func newHalt() *halt { return &halt{done: make(chan struct{})} }

// with ends everything. Only the first reason counts.
func (h *halt) with(err error) {
	h.once.Do(func() {
		h.err = err
		close(h.done)
	})
}

// reason gives the reason, or nil while nothing has ended.
func (h *halt) reason() error {
	select {
	case <-h.done:
		return h.err
	default:
		return nil
	}
}

// maxDefaultWorkers bounds the default. Four workers seal 1 GB/s, which is more than etcd sends; more would only take
// memory and the processors of the etcd beside them.
const maxDefaultWorkers = 4

// workers gives the number of workers for an option.
func workers(concurrency int) (int, error) {
	switch {
	case concurrency < 0:
		return 0, fmt.Errorf("concurrency is %d, want 0 or more", concurrency)
	case concurrency == 0:
		return min(runtime.GOMAXPROCS(0), maxDefaultWorkers), nil
	}
	return concurrency, nil
}

// buffers is a fixed number of buffers that go round. Each is made when it is first needed.
type buffers chan []byte

func newBuffers(n int) buffers {
	b := make(buffers, n)
	for range n {
		b <- nil
	}
	return b
}

// take waits for a free buffer, or gives false when everything ends.
func (b buffers) take(h *halt) ([]byte, bool) {
	select {
	case buf := <-b:
		return buf[:0], true
	case <-h.done:
		return nil, false
	}
}

// give puts a buffer back. There is always room: no more go round than were made.
func (b buffers) give(buf []byte) { b <- buf }
