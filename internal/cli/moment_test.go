package cli

import (
	"testing"
	"time"
)

func TestParseMoment(t *testing.T) {
	zone := time.FixedZone("", 3600)
	now := time.Date(2026, 11, 22, 10, 4, 30, 0, zone)
	for text, want := range map[string]string{
		"2026-11-22T08:00:00Z":          "2026-11-22T08:00:00Z",
		"2026-11-22T08:00:00.123+02:00": "2026-11-22T06:00:00.123Z",
		"2026-11-21 23:10":              "2026-11-21T22:10:00Z",
		"2026-11-21T23:10:05":           "2026-11-21T22:10:05Z",
		"10:04":                         "2026-11-22T09:04:00Z",
		"10:05":                         "2026-11-21T09:05:00Z", // still to come
		"09:00:01.500":                  "2026-11-22T08:00:01.5Z",
		"yesterday 10:05":               "2026-11-21T09:05:00Z",
		"10 minutes ago":                "2026-11-22T08:54:30Z",
		"1 minute ago":                  "2026-11-22T09:03:30Z",
		"90s ago":                       "2026-11-22T09:03:00Z",
		"1h30m ago":                     "2026-11-22T07:34:30Z",
		" 2 days ago ":                  "2026-11-20T09:04:30Z",
	} {
		got, err := parseMoment(text, now)
		if err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %s, %v; want %s", text, got.UTC().Format(time.RFC3339Nano), err, want)
		}
	}
	for _, text := range []string{"", "now", "10", "25:00", "2026-13-01T00:00:00Z", "10 minutes", "-5m ago", "99999999999999999999 days ago", "999999999999999 weeks ago", "ago"} {
		if got, err := parseMoment(text, now); err == nil {
			t.Errorf("%q passes as %s", text, got)
		}
	}
}
