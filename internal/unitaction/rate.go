package unitaction

import (
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-project/holdfast/internal/capture"
)

// rateAutomatic is the word for a pace that suits the place of the member.
const rateAutomatic = "automatic"

// parseRate reads a pace such as "30MB", "30MB/s", "8MiB" or "0".
func parseRate(text string) (capture.Rate, error) {
	if text == rateAutomatic {
		return capture.Automatic, nil
	}
	const suffix = "/s"
	number := strings.TrimSuffix(text, suffix)
	bytes, err := humanize.ParseBytes(number)
	// Less than a byte is not unlimited.
	if err != nil || bytes > 1<<50 || bytes == 0 && strings.ContainsAny(number, "123456789") {
		return 0, fmt.Errorf("max-rate must be a number of bytes per second such as 30MB, 0 for unlimited, or %s, given %q", rateAutomatic, text)
	}
	return capture.Rate(bytes), nil
}
