package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var (
	agoPattern = regexp.MustCompile(`^(\d+) ?(s|sec|second|m|min|minute|h|hour|d|day|w|week)s? ago$`)
	// clocks are ways to write a time of the day, dates those to write a day before it. Both are local time.
	clocks = []string{"15:04", "15:04:05", "15:04:05.000"}
	dates  = []string{"2006-01-02 ", "2006-01-02T"}
)

// parseMoment reads a time as a person writes it: RFC 3339, "2026-11-22 10:04" and "10:04" in local time, "10 minutes ago",
// "1h30m ago", "yesterday 10:04". A time of the day that is still to come is that of yesterday.
func parseMoment(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSpace(text)
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return at, nil
	}
	if m := agoPattern.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if unit := units[m[2][0]]; err == nil && n < int(1<<62/unit) {
			return now.Add(-time.Duration(n) * unit), nil
		}
	}
	if ago, found := strings.CutSuffix(text, " ago"); found {
		if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
			return now.Add(-d), nil
		}
	}
	day, clock := now, text
	if rest, found := strings.CutPrefix(text, "yesterday "); found {
		day, clock = now.AddDate(0, 0, -1), rest
	}
	for _, layout := range clocks {
		if t, err := time.Parse(layout, clock); err == nil {
			at := time.Date(day.Year(), day.Month(), day.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), now.Location())
			if at.After(now) {
				at = at.AddDate(0, 0, -1)
			}
			return at, nil
		}
		for _, date := range dates {
			if at, err := time.ParseInLocation(date+layout, text, now.Location()); err == nil {
				return at, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want one like 2026-11-22T10:04:30Z, 10:04, \"2026-11-22 10:04\" or \"10 minutes ago\"", text)
}

// units are told by the first letter of their names.
var units = map[byte]time.Duration{
	's': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour,
}
