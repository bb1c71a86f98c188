package segment

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/history"
)

// span is in seconds after day.
func span(first, last history.Revision, from, to int) history.Span {
	second := func(n int) time.Time { return day.Add(time.Duration(n) * time.Second) }
	return history.Span{Range: history.Range{First: first, Last: last}, From: second(from), To: second(to)}
}

func TestTimesOf(t *testing.T) {
	for name, tt := range map[string]struct{ give, want []history.Span }{
		"as they are":         {[]history.Span{span(1, 2, 0, 0), span(3, 9, 1, 5), span(10, 10, 5, 5)}, []history.Span{span(1, 2, 0, 0), span(3, 9, 1, 5), span(10, 10, 5, 5)}},
		"joined":              {[]history.Span{span(5, 5, 1, 1), span(6, 7, 1, 1), span(8, 8, 2, 3), span(9, 9, 2, 3)}, []history.Span{span(5, 7, 1, 1), span(8, 9, 2, 3)}},
		"a clock goes back":   {[]history.Span{span(1, 1, 5, 5), span(2, 2, 3, 3), span(3, 3, 6, 6)}, []history.Span{span(1, 2, 5, 5), span(3, 3, 6, 6)}},
		"exact after inexact": {[]history.Span{span(1, 1, 1, 5), span(2, 2, 3, 3)}, []history.Span{span(1, 1, 1, 5), span(2, 2, 5, 5)}},
		"bounds overlap":      {[]history.Span{span(1, 1, 1, 5), span(2, 2, 3, 7), span(3, 3, 2, 6)}, []history.Span{span(1, 1, 1, 5), span(2, 3, 3, 7)}},
		"bounds all before":   {[]history.Span{span(1, 1, 9, 9), span(2, 2, 3, 7)}, []history.Span{span(1, 2, 9, 9)}},
		"from after to":       {[]history.Span{span(1, 1, 9, 3), span(2, 2, 12, 10)}, []history.Span{span(1, 1, 9, 9), span(2, 2, 12, 12)}},
		"none":                {nil, nil},
		"a span of nothing":   {[]history.Span{{}, span(4, 4, 1, 1)}, []history.Span{span(4, 4, 1, 1)}},
	} {
		got := TimesOf(tt.give...)
		if diff := cmp.Diff(tt.want, slices.Collect(got.All())); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if got.Len() != len(tt.want) || !slices.Equal(got.Spans(), tt.want) {
			t.Errorf("%s: %d spans, %v", name, got.Len(), got.Spans())
		}
		for range got.All() { // it can be left
			break
		}
	}
}

func TestLast(t *testing.T) {
	spans := []history.Span{span(10, 12, 0, 0), span(13, 13, 4, 4), span(14, 20, 6, 10), span(21, 25, 8, 12), span(26, 26, 12, 12), span(27, 27, 20, 20)}
	for _, tt := range []struct {
		at     time.Duration
		want   history.Revision
		inside int // of spans, or -1
	}{
		{-time.Hour, 0, -1},
		{-1, 0, -1},
		{0, 12, -1},
		{4*time.Second - 1, 12, -1},
		{4 * time.Second, 13, -1},
		{6*time.Second - 1, 13, -1},
		{6 * time.Second, 13, 2},
		{9 * time.Second, 13, 2},
		{10 * time.Second, 20, 3},
		{12*time.Second - 1, 20, 3},
		{12 * time.Second, 26, -1},
		{19 * time.Second, 26, -1},
		{time.Hour, 27, -1},
	} {
		var inside history.Span
		if tt.inside >= 0 {
			inside = spans[tt.inside]
		}
		got, gotInside, ok := Last(spans, day.Add(tt.at))
		if got != tt.want || gotInside != inside || ok != (tt.inside >= 0) {
			t.Errorf("at %v: want %d, inside %d; got %d, %v %v", tt.at, tt.want, tt.inside, got, gotInside, ok)
		}
		packed, packedInside, packedOK := TimesOf(spans...).Last(day.Add(tt.at))
		if packed != got || packedInside != gotInside || packedOK != ok {
			t.Errorf("at %v: Times.Last gives %d, %v %v", tt.at, packed, packedInside, packedOK)
		}
	}
	if got, _, ok := Last(nil, day); got != 0 || ok {
		t.Errorf("no spans give %d, %v", got, ok)
	}
}
