package retention

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return t
}

// items makes snapshots of moments, oldest first.
func items(times ...string) []Item {
	var list []Item
	for _, text := range times {
		list = append(list, Item{Time: at(text)})
	}
	return list
}

func TestApply(t *testing.T) {
	now := at("2026-11-25 12:00")
	usual := items("2025-03-01 10:00", "2026-09-30 10:00", "2026-10-01 10:00", "2026-11-15 23:59", "2026-11-16 00:00",
		"2026-11-24 09:00", "2026-11-24 10:05", "2026-11-24 10:55", "2026-11-25 11:00")
	all := func(n int) []int {
		var list []int
		for i := range n {
			list = append(list, i)
		}
		return list
	}
	for name, tt := range map[string]struct {
		policy Policy
		items  []Item
		kept   []int
	}{
		"nothing there":             {Policy{Last: 1}, nil, nil},
		"no rule keeps the newest":  {Policy{}, usual, []int{8}},
		"last":                      {Policy{Last: 3}, usual, []int{6, 7, 8}},
		"more than there are":       {Policy{Last: 100}, usual, all(9)},
		"hourly":                    {Policy{Hourly: 3}, usual, []int{5, 7, 8}},
		"daily":                     {Policy{Daily: 3}, usual, []int{4, 7, 8}},
		"weekly, Sunday to Monday":  {Policy{Weekly: 3}, usual, []int{3, 4, 8}},
		"monthly":                   {Policy{Monthly: 2}, usual, []int{2, 8}},
		"monthly, all that is left": {Policy{Monthly: 12}, usual, []int{0, 1, 2, 8}},
		"yearly":                    {Policy{Yearly: 2}, usual, []int{0, 8}},
		"within":                    {Policy{Within: 26 * time.Hour}, usual, []int{6, 7, 8}},
		"several":                   {Policy{Last: 2, Yearly: 2}, usual, []int{0, 7, 8}},
		// The newest is the one with the highest revision, whatever its clock said.
		"the clock went back":            {Policy{Last: 1}, items("2026-11-24 10:00", "2026-11-25 10:00", "1970-01-01 00:01"), []int{2}},
		"the clock went back, within":    {Policy{Within: time.Hour}, items("2026-11-24 10:00", "2026-11-25 10:00", "1970-01-01 00:01"), []int{0, 1, 2}},
		"the clock went ahead":           {Policy{Last: 1}, items("2026-11-24 10:00", "2099-01-01 00:00", "2026-11-25 10:00"), []int{1, 2}},
		"the newest is ahead":            {Policy{Within: time.Hour}, items("2026-11-24 10:00", "2026-11-25 10:00", "2099-01-01 00:00"), []int{0, 1, 2}},
		"the newest is ahead, by number": {Policy{Last: 1}, items("2026-11-24 10:00", "2026-11-25 10:00", "2099-01-01 00:00"), []int{2}},
	} {
		decisions := tt.policy.Apply(tt.items, now)
		var kept []int
		for i, d := range decisions {
			if d.Keep {
				kept = append(kept, i)
			}
			if d.Keep != (len(d.Reasons) > 0) {
				t.Errorf("%s: decision %d is %+v", name, i, d)
			}
		}
		if !slices.Equal(kept, tt.kept) || len(decisions) != len(tt.items) {
			t.Errorf("%s: kept %v, want %v: %+v", name, kept, tt.kept, decisions)
		}
	}
}

func TestAlways(t *testing.T) {
	list := items("2026-11-20 10:00", "2026-11-21 10:00", "2026-11-22 10:00", "2026-11-23 10:00", "2026-11-24 10:00")
	list[0].Pinned = true
	list[1].Proven = true
	list[1].Needed = "base of the archive"
	list[2].Proven = true
	list[3].Doubt = "its manifest cannot be believed"
	want := []string{"pinned", "base of the archive", "the last proven", "in doubt: its manifest cannot be believed", "the newest, last 1"}
	for i, d := range (Policy{Last: 1}).Apply(list, at("2026-11-25 12:00")) {
		if got := strings.Join(d.Reasons, ", "); got != want[i] {
			t.Errorf("snapshot %d: %q, want %q", i, got, want[i])
		}
	}
}

// TestDoubtTakesNoPlace: a snapshot that was found damaged is not one of the last so many.
func TestDoubtTakesNoPlace(t *testing.T) {
	list := items("2026-11-20 10:00", "2026-11-21 10:00", "2026-11-22 10:00", "2026-11-23 10:00")
	list[2].Doubt, list[3].Doubt = "found damaged", "found damaged"
	want := []string{"last 2", "the newest, last 1", "in doubt: found damaged", "in doubt: found damaged"}
	for i, d := range (Policy{Last: 2}).Apply(list, at("2026-11-25 12:00")) {
		if got := strings.Join(d.Reasons, ", "); got != want[i] {
			t.Errorf("snapshot %d: %q, want %q", i, got, want[i])
		}
	}
}

// TestEveryPolicyKeeps: whatever the clocks and the rules, the newest stays, and applying a policy to what it kept removes
// nothing more.
func TestEveryPolicyKeeps(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	now := at("2026-11-25 12:00")
	for range 2000 {
		var list []Item
		for range 1 + random.IntN(40) {
			moment := now.Add(-time.Duration(random.Int64N(int64(3 * 365 * 24 * time.Hour))))
			if random.IntN(20) == 0 {
				moment = now.Add(time.Duration(random.Int64N(int64(50 * 365 * 24 * time.Hour))))
			}
			list = append(list, Item{Time: moment, Pinned: random.IntN(10) == 0, Needed: []string{"", "", "", "yes"}[random.IntN(4)], Proven: random.IntN(5) == 0})
		}
		if random.IntN(2) == 0 {
			slices.SortFunc(list, func(a, b Item) int { return a.Time.Compare(b.Time) })
		}
		n := func() int { return random.IntN(5) }
		policy := Policy{Last: n(), Hourly: n(), Daily: n(), Weekly: n(), Monthly: n(), Yearly: n(), Within: time.Duration(n()) * 24 * time.Hour}
		var kept []Item
		for i, d := range policy.Apply(list, now) {
			if d.Keep {
				kept = append(kept, list[i])
			}
		}
		if len(kept) == 0 || kept[len(kept)-1] != list[len(list)-1] {
			t.Fatalf("%+v gives up the newest of %+v", policy, list)
		}
		for _, d := range policy.Apply(kept, now) {
			if !d.Keep {
				t.Fatalf("%+v removes more the second time, of %+v", policy, list)
			}
		}
	}
}
