package archivefile

import "strconv"

// HumanSize gives a number of bytes as "du -h" does: in powers of 1024, rounded up, with one decimal below ten
// ("4.0K", "1.1M") and none from there ("68K"). What du counts is disk space, allocated blocks times 512, and not the
// length of a file; the caller passes the one it means. Negative sizes are shown as 0.
func HumanSize(bytes int64) string {
	size := uint64(max(bytes, 0))
	if size < 1024 {
		return strconv.FormatUint(size, 10)
	}
	const prefixes = "KMGTPE"
	unit, prefix := uint64(1024), 0
	// Rounding up can reach the next unit: 1023.5K is 1.0M.
	for ceilDiv(size, unit) >= 1024 && prefix < len(prefixes)-1 {
		unit *= 1024
		prefix++
	}
	suffix := prefixes[prefix : prefix+1]
	// The whole part apart, so that ten times an exabyte does not overflow.
	tenths := size/unit*10 + ceilDiv(size%unit*10, unit)
	if tenths >= 100 {
		return strconv.FormatUint(ceilDiv(size, unit), 10) + suffix
	}
	return strconv.FormatUint(tenths/10, 10) + "." + strconv.FormatUint(tenths%10, 10) + suffix
}

func ceilDiv(a, b uint64) uint64 {
	q := a / b
	if a%b != 0 {
		q++
	}
	return q
}
