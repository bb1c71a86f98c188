package repository

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Broken is something wrong with the numbering of a signer's manifests.
type Broken struct {
	Signer Fingerprint
	// Sequence is the number that is missing or doubled, or whose manifest does not follow the one before.
	Sequence int64
	What     string
}

// String is a line for people.
func (b Broken) String() string {
	return fmt.Sprintf("signer %s, manifest number %d: %s", b.Signer.Short(), b.Sequence, b.What)
}

// link is one manifest in the numbering of its signer: one that is there, or was removed by somebody who may.
type link struct {
	sequence int64
	sha256   string
	// previous is unknown of one that was removed.
	previous string
	removed  bool
}

// CheckChains looks at the numbering of manifests of all clusters together: each signer counts from 1, without a gap, and
// each manifest has the sha256 of the one before. A manifest that was removed, doubled or put back from an older copy shows,
// unless a record that can be believed says that it was pruned; one after the last that is there shows when seen has it.
// heads are the last ones that are there, to be remembered.
func CheckChains(reads []Read, removals []RemovalRead, seen Heads) (found []Broken, heads Heads) {
	chains := map[Fingerprint][]link{}
	there, disowned := map[string]bool{}, map[Fingerprint]bool{}
	for _, read := range reads {
		if n, is := errors.AsType[NotEnrolled](read.Err); is {
			disowned[n.Signer] = true
		}
		if m := read.Manifest; read.Err == nil {
			chains[m.Signer] = append(chains[m.Signer], link{sequence: m.Sequence, sha256: read.SHA256, previous: m.Previous})
			there[read.SHA256] = true
		}
	}
	for _, read := range removals {
		if read.Err != nil {
			continue
		}
		for _, gone := range read.Removal.Snapshots {
			// A removal that was cut off or locked is told of again by the next one.
			if !there[gone.SHA256] {
				there[gone.SHA256] = true
				chains[gone.Signer] = append(chains[gone.Signer], link{sequence: gone.Sequence, sha256: gone.SHA256, removed: true})
			}
		}
	}
	for signer := range seen {
		if chains[signer] == nil {
			chains[signer] = []link{}
		}
	}
	heads = Heads{}
	for signer, chain := range chains {
		slices.SortFunc(chain, func(a, b link) int {
			return cmp.Or(cmp.Compare(a.sequence, b.sequence), cmp.Compare(a.sha256, b.sha256))
		})
		expected, previous := int64(1), ""
		for _, l := range chain {
			switch {
			case l.sequence < expected:
				found = append(found, Broken{signer, l.sequence, "there are two of that number"})
				continue
			case l.sequence > expected:
				what := "it is missing"
				if l.sequence > expected+1 {
					what = fmt.Sprintf("it and those up to %d are missing", l.sequence-1)
				}
				found = append(found, Broken{signer, expected, what})
			case seen[signer].Sequence == l.sequence && seen[signer].SHA256 != l.sha256:
				found = append(found, Broken{signer, l.sequence, "it is another one than was there before"})
			case !l.removed && l.previous != previous:
				found = append(found, Broken{signer, l.sequence, "it does not follow the manifest before it"})
			}
			expected, previous = l.sequence+1, l.sha256
		}
		if len(chain) > 0 {
			heads[signer] = Head{expected - 1, previous}
		}
		// Those of a signer whose enrolment is lost are there, and are told of as not believed.
		if last := seen[signer]; last.Sequence >= expected && !(len(chain) == 0 && disowned[signer]) {
			what := "it was there, and is missing"
			if last.Sequence > expected {
				what = fmt.Sprintf("it and those up to %d were there, and are missing", last.Sequence)
			}
			found = append(found, Broken{signer, expected, what})
		}
	}
	slices.SortFunc(found, func(a, b Broken) int {
		return cmp.Or(cmp.Compare(a.Signer, b.Signer), cmp.Compare(a.Sequence, b.Sequence))
	})
	return found, heads
}
