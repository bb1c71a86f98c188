package kubeload

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// words are what names and texts are made of.
var words = strings.Fields(`api billing cache cart catalog checkout config consumer cron dashboard data events export
feature forecast gateway image import index ingest invoice ledger mail metrics notify orders payment pipeline price
producer profile proxy queue report router search session shipping sidecar stats storage stream sync token user web worker`)

// suffixAlphabet is the one that Kubernetes makes the ends of generated names from.
const suffixAlphabet = "bcdfghjklmnpqrstvwxz2456789"

func word(r *rand.Rand) string { return words[r.IntN(len(words))] }

// suffix gives the number as n characters or more of the alphabet of generated names; different numbers differ.
func suffix(number, n int) string {
	var b []byte
	for ; number > 0 || len(b) < n; number /= len(suffixAlphabet) {
		b = append(b, suffixAlphabet[number%len(suffixAlphabet)])
	}
	return string(b)
}

func hex(r *rand.Rand, bytes int) string { return fmt.Sprintf("%x", random(r, bytes)) }

func uid(r *rand.Rand) types.UID {
	b := random(r, 16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // the marks of a version 4 UUID
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

// random gives bytes that do not compress.
func random(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		v := r.Uint64()
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
	}
	return b[:n]
}

// encoded gives n bytes or a few more of base64 over random bytes, as certificates and Helm's releases are.
func encoded(r *rand.Rand, n int) []byte {
	return []byte(base64.StdEncoding.EncodeToString(random(r, n*3/4)))
}

// settings gives about n bytes of a configuration file: it compresses as text does.
func settings(r *rand.Rand, n int) string {
	var b strings.Builder
	b.Grow(n + 80)
	for b.Len() < n {
		fmt.Fprintf(&b, "%s.%s.%s = %q  # %s %d\n", word(r), word(r), word(r), hex(r, 4+r.IntN(12)), word(r), r.IntN(100000))
	}
	return b.String()
}

// size draws a size of lo to hi bytes where small is common and large is rare, as sizes of files are.
func size(r *rand.Rand, lo, hi int) int {
	u := r.Float64()
	return lo + int(float64(hi-lo)*u*u*u)
}
