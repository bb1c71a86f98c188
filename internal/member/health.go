package member

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// ProbeTimeout bounds the check of one member. It is above etcd's own request time-out of 7 s plus an election.
	ProbeTimeout = 8 * time.Second
	// connectTimeout bounds the first step of it. A member's kernel answers in milliseconds, or after one packet that was
	// lost.
	connectTimeout = 2 * time.Second
)

// Health is the state of a cluster, member by member.
type Health struct {
	Members []MemberHealth
	// ListError is set when no membership could be read; Members is empty then.
	ListError error
}

// MemberHealth is the outcome of probing one member.
type MemberHealth struct {
	Member Member
	// URL is the client URL that gave the outcome.
	URL string
	// Err is why the member is not healthy. Reachable tells whether something accepts connections at URL all the same.
	Err       error
	Reachable bool
}

// CheckHealth asks the member at endpoint who is a member, which it can tell without a quorum, and probes every one of them,
// all at once.
func CheckHealth(ctx context.Context, endpoint string, config *tls.Config) Health {
	client, err := Dial(endpoint, config)
	if err != nil {
		return Health{ListError: err}
	}
	defer client.Close()
	listing, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	members, err := client.KnownMembers(listing)
	if err != nil {
		return Health{ListError: err}
	}
	health := Health{Members: make([]MemberHealth, len(members))}
	var probes sync.WaitGroup
	for i, m := range members {
		probes.Go(func() { health.Members[i] = probe(ctx, m, config) })
	}
	probes.Wait()
	return health
}

// probe tries the client URLs of m in turn until one gives a healthy result.
func probe(ctx context.Context, m Member, config *tls.Config) MemberHealth {
	health := MemberHealth{Member: m}
	for _, url := range m.ClientURLs {
		health.URL = url
		// etcd's client would go on trying for as long as it may: a server that is not there is told at once.
		health.Err = Listens(ctx, url)
		if health.Reachable = health.Err == nil; !health.Reachable {
			continue
		}
		if health.Err = probeURL(ctx, url, config); health.Err == nil {
			return health
		}
	}
	return health
}

func probeURL(ctx context.Context, url string, config *tls.Config) error {
	client, err := Dial(url, config)
	if err != nil {
		return err
	}
	defer client.Close()
	bounded, cancel := context.WithTimeout(ctx, ProbeTimeout)
	defer cancel()
	return client.Probe(bounded)
}

// Healthy tells whether every member gave a healthy result.
func (h Health) Healthy() bool { return h.ListError == nil && h.HealthyMembers() == len(h.Members) }

// HealthyMembers counts the members that gave a healthy result.
func (h Health) HealthyMembers() int {
	healthy := 0
	for _, m := range h.Members {
		if m.healthy() {
			healthy++
		}
	}
	return healthy
}

func (m MemberHealth) healthy() bool { return m.Err == nil && len(m.Member.ClientURLs) > 0 }

// String is the report that "etcdctl cluster-health" prints: a line per member, then one for the cluster.
func (h Health) String() string {
	if h.ListError != nil {
		return "cluster may be unhealthy: failed to list members"
	}
	var lines []string
	for _, m := range h.Members {
		lines = append(lines, m.String())
	}
	switch healthy := h.HealthyMembers(); {
	case healthy == len(h.Members):
		lines = append(lines, "cluster is healthy")
	case healthy == 0:
		lines = append(lines, "cluster is unavailable")
	default:
		lines = append(lines, "cluster is degraded")
	}
	return strings.Join(lines, "\n")
}

// String is the report's line of one member.
func (m MemberHealth) String() string {
	switch urls := m.Member.ClientURLs; {
	case len(urls) == 0:
		return fmt.Sprintf("member %s is unreachable: no available published client urls", m.Member.ID)
	case m.Err == nil:
		return fmt.Sprintf("member %s is healthy: got healthy result from %s", m.Member.ID, m.URL)
	case len(urls) == 1 && m.Reachable:
		return fmt.Sprintf("member %s is unhealthy: got unhealthy result from %s", m.Member.ID, m.URL)
	default:
		return fmt.Sprintf("member %s is unreachable: [%s] are all unreachable", m.Member.ID, strings.Join(urls, " "))
	}
}

// Listens gives an error unless something accepts connections at a client URL. That it answers is another question.
func Listens(ctx context.Context, clientURL string) error {
	_, address, _ := strings.Cut(clientURL, "://")
	conn, err := (&net.Dialer{Timeout: connectTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", clientURL, err)
	}
	return conn.Close()
}
