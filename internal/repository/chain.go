package repository

import (
	"cmp"
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

// CheckChains looks at the numbering of manifests of all clusters together: each signer counts from 1, without a gap, and
// each manifest has the sha256 of the one before. A manifest that was removed, doubled or put back from an older copy shows.
func CheckChains(reads []Read) []Broken {
	bySigner := map[Fingerprint][]Read{}
	for _, read := range reads {
		if read.Err == nil {
			bySigner[read.Manifest.Signer] = append(bySigner[read.Manifest.Signer], read)
		}
	}
	var found []Broken
	for signer, chain := range bySigner {
		slices.SortFunc(chain, func(a, b Read) int {
			return cmp.Or(cmp.Compare(a.Manifest.Sequence, b.Manifest.Sequence), a.Point.ID.compare(b.Point.ID))
		})
		expected, previous := int64(1), ""
		for _, read := range chain {
			m := read.Manifest
			switch {
			case m.Sequence < expected:
				found = append(found, Broken{signer, m.Sequence, "there are two of that number"})
				continue
			case m.Sequence > expected:
				what := "it is missing"
				if m.Sequence > expected+1 {
					what = fmt.Sprintf("it and those up to %d are missing", m.Sequence-1)
				}
				found = append(found, Broken{signer, expected, what})
			case m.Previous != previous:
				found = append(found, Broken{signer, m.Sequence, "it does not follow the manifest before it"})
			}
			expected, previous = m.Sequence+1, read.SHA256
		}
	}
	slices.SortFunc(found, func(a, b Broken) int {
		return cmp.Or(cmp.Compare(a.Signer, b.Signer), cmp.Compare(a.Sequence, b.Sequence))
	})
	return found
}
