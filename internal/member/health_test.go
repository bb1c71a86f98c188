package member

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/etcdtest"
)

// TestHealthOfThree takes a cluster down member by member and holds the report against what runs.
func TestHealthOfThree(t *testing.T) {
	t.Parallel()
	secrets := etcdtest.NewTLS(t)
	cluster := etcdtest.StartCluster(t, etcdtest.Get(t, "3.7"), 3, etcdtest.Options{TLS: secrets})
	asked, second, third := cluster.Members[0], cluster.Members[1], cluster.Members[2]
	// state gives the words that the report must have about a server.
	const healthy, hung, gone = "healthy: got healthy result from URL", "unhealthy: got unhealthy result from URL", "unreachable: [URL] are all unreachable"
	check := func(want map[*etcdtest.Server]string, last string) {
		t.Helper()
		begun := time.Now()
		report := CheckHealth(t.Context(), asked.Endpoint, secrets.Config)
		if took := time.Since(begun); took > 2*ProbeTimeout {
			t.Errorf("it took %s", took)
		}
		must(t, report.ListError)
		wanted, good := map[string]bool{}, 0
		for server, words := range want {
			wanted["is "+strings.ReplaceAll(words, "URL", server.Endpoint)] = true
			if words == healthy {
				good++
			}
		}
		lines := strings.Split(report.String(), "\n")
		if len(lines) != 4 || lines[3] != last || report.HealthyMembers() != good || report.Healthy() != (good == 3) {
			t.Errorf("%d healthy, report\n%s", report.HealthyMembers(), report)
		}
		for i, line := range lines[:3] {
			words, found := strings.CutPrefix(line, "member "+report.Members[i].Member.ID.String()+" ")
			if !found || !wanted[words] {
				t.Errorf("line %q, want %v", line, wanted)
			}
			delete(wanted, words)
		}
	}
	check(map[*etcdtest.Server]string{asked: healthy, second: healthy, third: healthy}, "cluster is healthy")
	must(t, third.Kill())
	begun := time.Now()
	check(map[*etcdtest.Server]string{asked: healthy, second: healthy, third: gone}, "cluster is degraded")
	if took := time.Since(begun); took > ProbeTimeout {
		t.Errorf("a member that is not there took %s", took)
	}
	must(t, syscall.Kill(second.PID(), syscall.SIGSTOP))
	check(map[*etcdtest.Server]string{asked: hung, second: hung, third: gone}, "cluster is unavailable")
	must(t, asked.Kill())
	report := CheckHealth(t.Context(), asked.Endpoint, secrets.Config)
	if report.ListError == nil || report.Healthy() || report.HealthyMembers() != 0 || report.String() != "cluster may be unhealthy: failed to list members" {
		t.Errorf("report %q: %v", report, report.ListError)
	}
}

func TestHealthReport(t *testing.T) {
	member := func(id ID, urls ...string) Member { return Member{ID: id, ClientURLs: urls} }
	failed := errors.New("no")
	for want, report := range map[string]Health{
		"member 1 is healthy: got healthy result from https://a:1\ncluster is healthy": {Members: []MemberHealth{
			{Member: member(1, "https://a:1"), URL: "https://a:1"},
		}},
		"member 1 is healthy: got healthy result from https://b:1\ncluster is healthy": {Members: []MemberHealth{
			{Member: member(1, "https://a:1", "https://b:1"), URL: "https://b:1"},
		}},
		"member 1 is healthy: got healthy result from https://a:1\nmember ab is unhealthy: got unhealthy result from https://b:1\ncluster is degraded": {Members: []MemberHealth{
			{Member: member(1, "https://a:1"), URL: "https://a:1"}, {Member: member(0xab, "https://b:1"), URL: "https://b:1", Err: failed, Reachable: true},
		}},
		"member 1 is unreachable: [https://a:1 https://b:1] are all unreachable\ncluster is unavailable": {Members: []MemberHealth{
			{Member: member(1, "https://a:1", "https://b:1"), URL: "https://b:1", Err: failed, Reachable: true},
		}},
		"member 1 is unreachable: no available published client urls\ncluster is unavailable": {Members: []MemberHealth{{Member: member(1)}}},
		"cluster may be unhealthy: failed to list members":                                    {ListError: failed},
	} {
		if got := report.String(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		if report.Healthy() != strings.HasSuffix(want, "cluster is healthy") {
			t.Errorf("healthy is %v of\n%s", report.Healthy(), want)
		}
	}
}

// TestProbeTriesEveryURL gives a member a first URL where nobody is.
func TestProbeTriesEveryURL(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Get(t, "3.7"), etcdtest.Options{TLS: etcdtest.NewTLS(t)})
	nobody := fmt.Sprintf("https://127.0.0.1:%d", etcdtest.ReservePort(t))
	health := probe(t.Context(), Member{ID: 1, ClientURLs: []string{nobody, s.Endpoint}}, s.TLS.Config)
	if health.Err != nil || health.URL != s.Endpoint {
		t.Errorf("%+v", health)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if health := probe(ended, Member{ID: 1, ClientURLs: []string{s.Endpoint}}, s.TLS.Config); health.Err == nil {
		t.Error("a probe after the end of its context is healthy")
	}
}
