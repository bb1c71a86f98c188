package azure

import (
	"net/http"

	"github.com/holdfast-project/holdfast/internal/store/network"
)

// transport makes one request for the client: without following a redirection, and without the URL in its errors, whose
// query may be a SAS token.
type transport struct{ http.RoundTripper }

// Do makes the request.
func (t transport) Do(request *http.Request) (*http.Response, error) {
	return network.NameCut(t.RoundTripper).RoundTrip(request)
}
