package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"
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
	p := &Provider{}
	got, err := p.freePorts(inv, 3)
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
	if got, err := p.freePorts(inv, 1); err == nil {
		t.Errorf("got %q where everything is taken", got)
	}
	if err := p.settle(t.Context()); err != nil || len(p.reserved) != 0 {
		t.Errorf("reserved is %v: %v", p.reserved, err)
	}
}

// TestReservedPorts chooses for two homes while nobody listens yet. The kernel tells the same to another process: there is
// one name of a socket for all.
func TestReservedPorts(t *testing.T) {
	inv := &inventory.Inventory{}
	first, second := &Provider{}, &Provider{}
	ports, err := first.freePorts(inv, 2)
	if err != nil {
		t.Fatal(err)
	}
	others, err := second.freePorts(inv, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range others {
		if slices.Contains(ports, port) {
			t.Errorf("both homes got %q", port)
		}
	}
	// Until somebody listens on all of them.
	listener, err := net.Listen("tcp", ports[0])
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	settled := make(chan error, 1)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { settled <- first.settle(ctx) }()
	if _, err := reserve(ports[1]); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("reserved again: %v", err)
	}
	stop := errors.New("stop")
	cancel(stop)
	if err := <-settled; !errors.Is(err, stop) || first.reserved[ports[1]] == nil {
		t.Errorf("settled while nobody listens on %q: %v", ports[1], err)
	}
	other, err := net.Listen("tcp", ports[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := first.settle(t.Context()); err != nil || len(first.reserved) != 0 || !listening(ports[1]) {
		t.Errorf("reserved is %v: %v", first.reserved, err)
	}
	if err := other.Close(); err != nil || listening(ports[1]) {
		t.Errorf("%q is listened on after the end: %v", ports[1], err)
	}
	if again, err := second.freePorts(inv, 2); err != nil || again[0] != ports[1] {
		t.Errorf("got %q, want first %q, which is free: %v", again, ports[1], err)
	}
	for _, reservation := range second.reserved {
		if err := reservation.Close(); err != nil {
			t.Error(err)
		}
	}
}
