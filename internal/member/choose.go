package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
)

// Candidate is a member that may be read from, or why not.
type Candidate struct {
	Client *Client
	Status Status
	Name   string
	// Role is Follower, Leader or Alone.
	Role string
	// Why is the reason why the member was not taken.
	Why string
}

const (
	// lookTimeout bounds the look at each member.
	lookTimeout = 5 * time.Second
	// mostLag is how many revisions a member may be behind the best one and still be read. A healthy follower is behind by
	// what is on its way at the moment.
	mostLag = 1000
)

// Roles of a member that can be read.
const (
	Follower = "follower"
	Leader   = "leader"
	Alone    = "alone"
)

// ErrNoMember means that none of the members can be read.
var ErrNoMember = errors.New("no member can be read")

// Choose looks at all members at once and puts those that can be read in order: voting followers first, as a snapshot
// disturbs them least, then the leader. Members without a leader come last: what they serve may be old, and is better than
// nothing. Learners, members that lag and members with a CORRUPT alarm are not read at all.
func Choose(ctx context.Context, clients []*Client) (good, skipped []Candidate, err error) {
	looks := make([]Candidate, len(clients))
	var group sync.WaitGroup
	for i, client := range clients {
		group.Go(func() { looks[i] = look(ctx, client) })
	}
	group.Wait()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	var highest history.Revision
	clusters := map[ID]string{}
	for _, c := range looks {
		if c.Why == "" {
			highest = max(highest, c.Status.Revision)
			clusters[c.Status.ClusterID] = c.Client.Endpoint()
		}
	}
	if len(clusters) > 1 {
		var list []string
		for id, endpoint := range clusters {
			list = append(list, fmt.Sprintf("%s at %s", id, endpoint))
		}
		slices.Sort(list)
		return nil, nil, fmt.Errorf("the endpoints are of %d different etcd clusters: %s", len(clusters), strings.Join(list, ", "))
	}
	seen := map[ID]bool{}
	for _, c := range looks {
		if lag := highest - c.Status.Revision; c.Why == "" && lag > mostLag {
			c.Why = fmt.Sprintf("it is %d revisions behind", lag)
		}
		switch {
		case c.Why != "":
			skipped = append(skipped, c)
		case !seen[c.Status.MemberID]: // two endpoints can lead to one member
			seen[c.Status.MemberID] = true
			good = append(good, c)
		}
	}
	slices.SortStableFunc(good, func(a, b Candidate) int { return cmp.Compare(a.place(), b.place()) })
	if len(good) == 0 {
		var reasons []error
		for _, c := range skipped {
			reasons = append(reasons, fmt.Errorf("member at %s: %s", c.Client.Endpoint(), c.Why))
		}
		return nil, skipped, errors.Join(append([]error{ErrNoMember}, reasons...)...)
	}
	return good, skipped, nil
}

func (c Candidate) place() int {
	switch {
	case c.Status.Leader == 0:
		return 2
	case c.Role == Follower:
		return 0
	}
	return 1
}

// look asks one member how it is.
func look(ctx context.Context, client *Client) Candidate {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	c := Candidate{Client: client}
	var err error
	if c.Status, err = client.Status(ctx); err != nil {
		c.Why = err.Error()
		return c
	}
	c.Role = Follower
	if c.Status.Leader == c.Status.MemberID {
		c.Role = Leader
	}
	// Its own knowledge is enough for its name, and needs no quorum.
	if members, err := client.KnownMembers(ctx); err == nil {
		if i := slices.IndexFunc(members, func(m Member) bool { return m.ID == c.Status.MemberID }); i >= 0 {
			c.Name = members[i].Name
		}
		if len(members) == 1 {
			c.Role = Alone
		}
	}
	switch {
	case c.Status.Learner:
		c.Why = "it is a learner"
	case slices.ContainsFunc(c.Status.Errors, func(text string) bool { return strings.Contains(text, "CORRUPT") }):
		c.Why = "it has a CORRUPT alarm: the members of the cluster disagree"
	}
	return c
}
