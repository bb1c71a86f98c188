package member

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// source is a connection to which others write, and which counts how often it is looked at.
type source struct {
	net.Conn
	pieces chan []byte
	buffer bytes.Buffer
	looks  int
}

func (s *source) Read(p []byte) (int, error) {
	s.looks++
	if s.buffer.Len() == 0 {
		piece, more := <-s.pieces
		if !more {
			return 0, io.EOF
		}
		s.buffer.Write(piece)
	}
	for s.buffer.Len() < len(p) {
		select {
		case piece, more := <-s.pieces:
			if more {
				s.buffer.Write(piece)
				continue
			}
		default:
		}
		break
	}
	return s.buffer.Read(p)
}

// gathered writes n pieces of some bytes, one each step, and reads them through a gathering connection of some age.
func gathered(t *testing.T, age time.Duration, n, size int, step time.Duration) (looks int, late time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &source{pieces: make(chan []byte, n)}
		g := &gathering{Conn: s, opened: time.Now().Add(-age), buffer: make([]byte, gatherBytes)}
		sent := make([]time.Time, n)
		go func() {
			for i := range n {
				time.Sleep(step)
				sent[i] = time.Now()
				s.pieces <- bytes.Repeat([]byte{byte(i)}, size)
			}
			close(s.pieces)
		}()
		got := make([]byte, size)
		for i := range n {
			if _, err := io.ReadFull(g, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, size)) {
				t.Fatalf("piece %d is another one", i)
			}
			late = max(late, time.Since(sent[i]))
		}
		if _, err := g.Read(got); err != io.EOF {
			t.Errorf("the end is %v", err)
		}
		looks = s.looks
	})
	return looks, late
}

func TestGathering(t *testing.T) {
	const old = time.Minute
	for name, tt := range map[string]struct {
		age         time.Duration
		n, size     int
		step        time.Duration
		least, most int // looks
		late        time.Duration
	}{
		// Two seconds of messages in 50 looks a second, and one for the end.
		"busy":  {old, 2000, 100, time.Millisecond, 95, 102, gatherTime},
		"quiet": {old, 20, 100, 100 * time.Millisecond, 20, 21, 0},
		// Its first second is read as it comes; from then on it is gathered.
		"new": {0, 1500, 100, time.Millisecond, 1000 + 20, 1000 + 30, gatherTime},
		// Whoever has much to read does not wait: more than 50 full looks a second.
		"full": {old, 4000, gatherBytes, time.Microsecond, 4000, 4010, gatherTime},
	} {
		t.Run(name, func(t *testing.T) {
			looks, late := gathered(t, tt.age, tt.n, tt.size, tt.step)
			if looks < tt.least || looks > tt.most || late > tt.late {
				t.Errorf("%d looks, the last %s late; want %d to %d, at most %s", looks, late, tt.least, tt.most, tt.late)
			}
		})
	}
}

func TestProxied(t *testing.T) {
	for endpoint, want := range map[string]bool{"https://127.0.0.1:2379": false, "http://localhost:2379": false, "https://[::1]:2379": false, "://": true} {
		if got := proxied(endpoint); got != want {
			t.Errorf("%q is proxied: %t", endpoint, got)
		}
	}
}
