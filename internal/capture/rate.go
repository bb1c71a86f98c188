package capture

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"google.golang.org/grpc/peer"
)

const (
	// DefaultLocalRate is the pace, in bytes of backend per second, of a snapshot of a member on the same machine.
	// It is lowered while the member's clients would feel it, see considerate.
	DefaultLocalRate = 60_000_000
	// promptLocalRate is that for Prompt. It is lowered as the other one is, so that it is felt for a moment at most.
	promptLocalRate = 3 * DefaultLocalRate
	// LongestPaced bounds how long a pace may stretch a snapshot: a member keeps every page that was freed
	// meanwhile, so a slow snapshot makes its backend grow.
	LongestPaced = 10 * time.Minute
	// considerateFrom is the size in bytes from which it is worth to follow how the member is: a second of the pace.
	considerateFrom = DefaultLocalRate
	// burst is what may pass at once, in bytes. An eighth of a MiB keeps the pace even between two of etcd's 32 KiB
	// messages.
	burst = 128 << 10
)

// Rate is a pace in bytes of backend per second.
type Rate int64

const (
	// Automatic paces members on this machine only.
	Automatic Rate = -1
	// Unlimited does not pace.
	Unlimited Rate = 0
	// Prompt is Automatic for a snapshot that something waits for: three times as fast.
	Prompt Rate = -2
)

// effectiveRate gives the pace in bytes per second, 0 for none.
func effectiveRate(pace Rate, local bool, size int64) int64 {
	switch {
	case pace == Automatic && local:
		pace = DefaultLocalRate
	case pace == Prompt && local:
		pace = promptLocalRate
	case pace == Automatic || pace == Prompt || pace == Unlimited:
		return 0
	}
	return max(int64(pace), longestRate(size))
}

// longestRate is the pace at which a snapshot takes LongestPaced.
func longestRate(size int64) int64 {
	seconds := int64(LongestPaced / time.Second)
	return (size + seconds - 1) / seconds
}

// local tells whether the other end of a stream is on this machine, by its connection: a name or address of the endpoint
// would have to be looked up, and may lead anywhere.
func local(stream context.Context) bool {
	ends, known := peer.FromContext(stream)
	return known && sameMachine(ends.LocalAddr, ends.Addr)
}

// sameMachine tells whether both ends of a connection are on one machine: then they have the same address, or are on
// loopback, or it is no network connection.
func sameMachine(here, there net.Addr) bool {
	a, hereIP := here.(*net.TCPAddr)
	b, thereIP := there.(*net.TCPAddr)
	if !hereIP || !thereIP {
		return here != nil && there != nil
	}
	return a.IP.Equal(b.IP) || a.IP.IsLoopback() && b.IP.IsLoopback()
}

// AutomaticRate is the word for Automatic.
const AutomaticRate = "automatic"

// ParseRate reads a pace such as "30MB", "30MB/s", "8MiB", "0" or "automatic". Its error says what must be, without a verb
// for what was given where.
func ParseRate(text string) (Rate, error) {
	if text == AutomaticRate {
		return Automatic, nil
	}
	number := strings.TrimSuffix(text, "/s")
	bytes, err := humanize.ParseBytes(number)
	// Less than a byte is not unlimited.
	if err != nil || bytes > mostBytes || bytes == 0 && strings.ContainsAny(number, "123456789") {
		return 0, fmt.Errorf("must be a number of bytes per second such as 30MB, 0 for unlimited, or %s, given %q", AutomaticRate, text)
	}
	return Rate(bytes), nil
}
