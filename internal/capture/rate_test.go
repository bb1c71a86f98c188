package capture

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestEffectiveRate(t *testing.T) {
	const gigabyte = 1_000_000_000
	for _, tt := range []struct {
		pace  Rate
		local bool
		size  int64
		want  int64
	}{
		{Unlimited, true, 50 * gigabyte, 0},
		{Unlimited, false, 1, 0},
		{Automatic, false, 50 * gigabyte, 0},
		{Automatic, true, 0, 60_000_000},
		{Prompt, false, 50 * gigabyte, 0},
		{Prompt, true, 0, 180_000_000},
		{Prompt, true, 288 * gigabyte, 480_000_000},
		{Automatic, true, 36 * gigabyte, 60_000_000},          // exactly 10 minutes
		{Automatic, true, 36*gigabyte + 1, 60_000_001},        // a byte more takes more
		{Automatic, true, 72 * gigabyte, 120_000_000},         // twice as much, twice as fast
		{30_000_000, true, 700_000_000, 30_000_000},           // as asked for
		{30_000_000, false, 700_000_000, 30_000_000},          // elsewhere too
		{1, true, 600, 1},                                     // 10 minutes
		{1, true, 601, 2},                                     // never longer
		{1_000_000, false, 3_500_000_000, 5_833_334},          // raised, by what was asked for as well
		{90_000_000, true, 1, 90_000_000},                     // more than the default is allowed
		{Rate(1 << 50), false, 1 << 50, 1 << 50},              // the most that a parameter can say
		{Automatic, true, 1<<50 + trailerSize, 1876499844738}, // the most that a member can announce
	} {
		if got := effectiveRate(tt.pace, tt.local, tt.size); got != tt.want {
			t.Errorf("pace %d, local %v, size %d: %d, want %d", tt.pace, tt.local, tt.size, got, tt.want)
		}
	}
}

func TestSameMachine(t *testing.T) {
	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 2379} }
	for _, tt := range []struct {
		here, there net.Addr
		want        bool
	}{
		{tcp("127.0.0.1"), tcp("127.0.0.1"), true},
		{tcp("127.0.0.1"), tcp("127.0.1.1"), true},
		{tcp("::1"), tcp("::1"), true},
		{tcp("10.0.0.1"), tcp("10.0.0.1"), true},
		{tcp("10.0.0.1"), tcp("::ffff:10.0.0.1"), true},
		{tcp("10.0.0.1"), tcp("10.0.0.2"), false},
		{tcp("fe80::1"), tcp("fe80::2"), false},
		{&net.UnixAddr{Name: "@"}, &net.UnixAddr{Name: "/run/etcd"}, true},
		{nil, nil, false},
		{nil, tcp("127.0.0.1"), false},
	} {
		if got := sameMachine(tt.here, tt.there); got != tt.want {
			t.Errorf("%v and %v: %v", tt.here, tt.there, got)
		}
	}
}

// TestPaceIsKept measures the pace by a clock that only the pace moves.
func TestPaceIsKept(t *testing.T) {
	own, other := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 2379}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 2379}
	const size = 6_000_000
	whole := backend(size)
	for name, tt := range map[string]struct {
		pace  Rate
		where net.Addr
		want  float64 // seconds, without the burst that passes at once
	}{
		"default here":      {Automatic, own, float64(size+trailerSize-burst) / 60_000_000},
		"default elsewhere": {Automatic, other, 0},
		"unlimited here":    {Unlimited, own, 0},
		"asked for":         {1_000_000, other, float64(size+trailerSize-burst) / 1_000_000},
		"raised":            {1, own, float64(size+trailerSize-burst) / 10_001}, // 600 s for the whole
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := open(t.Context(), &memory{list: messages(whole, 32<<10), local: tt.where}, tt.pace, StallTimeout)
			must(t, err)
			begun, passed, worst := time.Now(), 0, 0.0
			_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
				passed += len(p)
				if s.limit != nil {
					// At no moment may more have passed than the pace and the burst allow.
					allowed := time.Since(begun).Seconds()*float64(s.limit.Limit()) + burst
					worst = max(worst, float64(passed)-allowed)
				}
				return len(p), nil
			}), s)
			must(t, err)
			must(t, s.Close())
			took := time.Since(begun).Seconds()
			if passed != len(whole) || took < tt.want*0.99 || took > tt.want*1.01+0.001 || worst > 1 {
				t.Errorf("%s: %d bytes in %.3f s, want %.3f s; at most %.0f bytes too early", name, passed, took, tt.want, worst)
			}
		})
	}
}

// TestOnlyTheMemberStalls tells a member that sends nothing from a reader that takes its time.
func TestOnlyTheMemberStalls(t *testing.T) {
	whole := backend(1000)
	list := messages(whole, 100)
	synctest.Test(t, func(t *testing.T) {
		slow := &memory{list: list, delay: func(int) time.Duration { return StallTimeout - time.Second }}
		s, err := open(t.Context(), slow, Unlimited, StallTimeout)
		must(t, err)
		time.Sleep(10 * StallTimeout) // before the first read
		var got bytes.Buffer
		_, err = io.CopyBuffer(writerFunc(func(p []byte) (int, error) {
			time.Sleep(2 * StallTimeout) // a disk that is busy
			return got.Write(p)
		}), struct{ io.Reader }{s}, make([]byte, 70))
		if err != nil || !bytes.Equal(got.Bytes(), whole) {
			t.Errorf("a slow member and a slower reader: %d bytes, %v", got.Len(), err)
		}
		must(t, s.Close())
	})
	for i := range len(list) + 1 {
		synctest.Test(t, func(t *testing.T) {
			hung := &memory{list: list, delay: func(at int) time.Duration {
				if at == i {
					return time.Hour
				}
				return 0
			}}
			begun := time.Now()
			s, err := open(t.Context(), hung, Unlimited, StallTimeout)
			if err == nil {
				_, err = io.ReadAll(s)
				must(t, s.Close())
			}
			if err == nil || !strings.HasSuffix(err.Error(), "member sent nothing for 30s") || time.Since(begun) != StallTimeout {
				t.Errorf("message %d: after %s: %v", i, time.Since(begun), err)
			}
		})
	}
}

// TestOwnPaceIsNoStall paces so slowly that one message takes longer than the patience with the member.
func TestOwnPaceIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := backend(2 * burst)
		m := &memory{list: []*pb.SnapshotResponse{
			{Blob: whole[:len(whole)-trailerSize]}, {Blob: whole[len(whole)-trailerSize:]},
		}}
		s, err := open(t.Context(), m, 1000, StallTimeout)
		must(t, err)
		begun := time.Now()
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, whole) || time.Since(begun) < 2*StallTimeout {
			t.Errorf("%d bytes after %s: %v", len(got), time.Since(begun), err)
		}
		must(t, s.Close())
	})
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"automatic": Automatic, "0": Unlimited, "0MB": 0, "0/s": 0, "0.0": 0, "1": 1, "30MB": 30_000_000, "30MB/s": 30_000_000, "30 mb/s": 30_000_000, "8MiB": 8 << 20,
		"1.5GB": 1_500_000_000, "60000000": 60_000_000, "1kB": 1000, "1PiB": 1 << 50,
	} {
		if got, err := ParseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "/s", "fast", "-1", "-30MB", "1e6", "30MB/h", "30MB/s/s", "0x10", "2PiB", "99999999999999999999999999", "0.4", "0.9B", "1MB 2", "Automatic", "NaN", "Inf"} {
		if got, err := ParseRate(text); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("given %q", text)) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
