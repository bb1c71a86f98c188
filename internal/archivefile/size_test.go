package archivefile

import "testing"

// The vectors are what GNU du -h prints, taken with "truncate -s N f; du --apparent-size -h f"; the two largest, which
// no file system here holds, with "numfmt --to=iec --round=up".
func TestHumanSize(t *testing.T) {
	for _, test := range []struct {
		bytes int64
		want  string
	}{
		{-1, "0"},
		{0, "0"},
		{1, "1"},
		{512, "512"},
		{1023, "1023"},
		{1024, "1.0K"},
		{1025, "1.1K"},
		{4096, "4.0K"},
		{10137, "9.9K"},
		{10138, "10K"},
		{10239, "10K"},
		{10240, "10K"},
		{10241, "11K"},
		{65536, "64K"},
		{69632, "68K"},
		{1046528, "1022K"},
		{1047552, "1023K"},
		{1047553, "1.0M"},
		{1048575, "1.0M"},
		{1048576, "1.0M"},
		{1048577, "1.1M"},
		{1100000, "1.1M"},
		{10485759, "10M"},
		{10485760, "10M"},
		{62914560, "60M"},
		{734003200, "700M"},
		{1073741824, "1.0G"},
		{3758096384, "3.5G"},
		{1099511627775, "1.0T"},
		{1152921504606846976, "1.0E"},
		{9223372036854775807, "8.0E"},
	} {
		if got := HumanSize(test.bytes); got != test.want {
			t.Errorf("HumanSize(%d) = %q, want %q", test.bytes, got, test.want)
		}
	}
}
