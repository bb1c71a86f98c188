package segment

import (
	"encoding/binary"
	"iter"
	"slices"
	"time"

	"github.com/holdfast-project/holdfast/internal/history"
)

// maxMillis is the end of the year 9999, which is as far as RFC 3339 goes, in milliseconds since 1970.
const maxMillis = 253_402_300_799_999

// Times tell when each revision of a segment came about: spans without a hole, no two neighbours with the same times.
// They are kept as they are in the file, 2 to 4 bytes for most: a day of a busy cluster has millions, and each takes 64
// bytes as a history.Span. The zero value has none. Times may be copied, and read from several goroutines.
type Times struct {
	first history.Revision
	count int64
	runs  []byte // our own, checked: see run
}

// TimesOf packs spans. Each must begin with the revision after the last one of the one before. Times are made monotone as
// Builder.Add does.
func TimesOf(spans ...history.Span) Times {
	var p packer
	for _, s := range spans {
		if n := s.Len(); n > 0 {
			p.add(s.First, uint64(n), clampMillis(s.From), clampMillis(s.To))
		}
	}
	return p.times()
}

// Len is the number of spans.
func (t Times) Len() int { return int(t.count) }

// All gives the spans in order.
func (t Times) All() iter.Seq[history.Span] {
	return func(yield func(history.Span) bool) {
		at := t.first
		for r := range t.each() {
			last := at + history.Revision(r.length) - 1
			if !yield(history.Span{Range: history.Range{First: at, Last: last}, From: fromMillis(r.from), To: fromMillis(r.to)}) {
				return
			}
			at = last + 1
		}
	}
}

// Spans gives all spans as a slice of the caller's own, 64 bytes for each.
func (t Times) Spans() []history.Span {
	return slices.AppendSeq(make([]history.Span, 0, t.count), t.All())
}

// Last is Last for these spans.
func (t Times) Last(at time.Time) (revision history.Revision, inside history.Span, ok bool) {
	return last(t.All(), at)
}

// Last tells which revision was the last one at a moment: the greatest that came about not after it, or 0 when all came
// later. When the moment is inside a span of which is only known that its revisions came between From and To, From <=
// at < To, then some of them may have come about by then, too: inside is the first such span, and ok is true. The spans
// are in order, as those of a segment or of several that follow one another.
func Last(spans []history.Span, at time.Time) (revision history.Revision, inside history.Span, ok bool) {
	return last(slices.Values(spans), at)
}

func last(spans iter.Seq[history.Span], at time.Time) (revision history.Revision, inside history.Span, ok bool) {
	for s := range spans {
		if s.To.After(at) {
			// To never goes down, so no later span is over; From does not either, so that a later one holds the moment
			// only if this one does.
			if !s.From.After(at) {
				return revision, s, true
			}
			break
		}
		revision = s.Last
	}
	return revision, history.Span{}, false
}

// run is a span in numbers: how many revisions, and milliseconds since 1970.
type run struct {
	length   uint64
	from, to int64
}

// each decodes the runs.
func (t Times) each() iter.Seq[run] {
	return func(yield func(run) bool) {
		var from int64
		next := func(b []byte) (uint64, []byte) {
			v, n := binary.Uvarint(b)
			return v, b[n:]
		}
		for b := t.runs; len(b) > 0; {
			var length, step, width uint64
			length, b = next(b)
			step, b = next(b)
			if length&1 != 0 {
				width, b = next(b)
			}
			from += int64(step)
			if !yield(run{length>>1 + 1, from, from + int64(width)}) {
				return
			}
		}
	}
}

// packer makes Times out of runs in order: it makes them monotone, and joins those with the same times.
type packer struct {
	packed Times
	last   run   // not yet in packed; length 0 is none
	before int64 // From of the last one in packed
}

// add puts more revisions behind those that are there. The first revision counts for the first run.
func (p *packer) add(first history.Revision, length uint64, from, to int64) {
	switch {
	case p.last.length == 0:
		p.packed.first = first
		to = max(from, to)
	case from >= to: // seen as it came, or a clock that went back
		from = max(from, p.last.to)
		to = from
	default:
		// From is only a bound, and need not wait for the end of the span before.
		from, to = max(from, p.last.from), max(to, p.last.to)
	}
	if p.last.length > 0 && p.last.from == from && p.last.to == to {
		p.last.length += length
		return
	}
	p.flush()
	p.last = run{length, from, to}
}

// flush packs the last run.
func (p *packer) flush() {
	if p.last.length == 0 {
		return
	}
	width := uint64(p.last.to - p.last.from)
	inexact := uint64(0)
	if width > 0 {
		inexact = 1
	}
	p.packed.runs = binary.AppendUvarint(p.packed.runs, (p.last.length-1)<<1|inexact)
	p.packed.runs = binary.AppendUvarint(p.packed.runs, uint64(p.last.from-p.before))
	if width > 0 {
		p.packed.runs = binary.AppendUvarint(p.packed.runs, width)
	}
	p.packed.count++
	p.before = p.last.from
}

// times gives all that was added. The packer stays as it is.
func (p *packer) times() Times {
	whole := *p
	whole.packed.runs = slices.Clone(p.packed.runs)
	whole.flush()
	return whole.packed
}

// clampMillis gives whole milliseconds since 1970. A clock before that or after the year 9999 gives the limit.
func clampMillis(t time.Time) int64 { return min(max(t.UnixMilli(), 0), maxMillis) }

func fromMillis(ms int64) time.Time { return time.UnixMilli(ms).UTC() }
