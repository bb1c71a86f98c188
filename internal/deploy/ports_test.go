package deploy

import (
	"fmt"
	"net"
	"strconv"
	"testing"

	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/unit"
)

func TestFreePorts(t *testing.T) {
	// All ports but a few are taken: by the records of units, in each of their three places.
	inv := &inventory.Inventory{Applications: map[string]*inventory.Application{"etcd": {Units: map[int]unit.Record{}}}}
	open := map[string]bool{}
	for port := firstPort; port < lastPort; port += 3 {
		at := func(n int) string { return fmt.Sprintf("127.0.0.1:%d", port+n) }
		if (port-firstPort)%300 == 0 {
			open[at(0)], open[at(1)], open[at(2)] = true, true, true
			continue
		}
		inv.Applications["etcd"].Units[port] = unit.Record{Agent: at(0), PeerURL: "https://" + at(1), ClientURLs: []string{"https://" + at(2)}}
	}
	got, err := freePorts(inv, 3)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, address := range got {
		host, port, err := net.SplitHostPort(address)
		if n, _ := strconv.Atoi(port); err != nil || host != "127.0.0.1" || n < firstPort || n >= lastPort || !open[address] || seen[address] {
			t.Errorf("address %q is taken, twice there or elsewhere: %q", address, got)
		}
		seen[address] = true
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Errorf("nobody has it, but: %v", err)
			continue
		}
		defer listener.Close()
		if bindable(address) {
			t.Errorf("%q is free although somebody listens", address)
		}
	}
	for address := range open { // now by units too
		inv.Applications["etcd"].Units[len(address)+lastPort+len(inv.Applications["etcd"].Units)] = unit.Record{Agent: address}
	}
	if got, err := freePorts(inv, 1); err == nil {
		t.Errorf("got %q where everything is taken", got)
	}
}
