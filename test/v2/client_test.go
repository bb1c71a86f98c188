package v2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/test/matrix/home"
)

// store is the v2 API of one unit's member.
type store struct {
	base   string
	client *http.Client
}

func storeOf(t *testing.T, h *home.Home, name string) store {
	t.Helper()
	config, err := pki.ClientTLS(pki.Files(deploy.OperatorFolder(h.Dir), "etcd"))
	must(t, err)
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return store{base: h.Record(t, name).ClientURLs[0], client: &http.Client{Transport: transport, Timeout: 20 * time.Second}}
}

func (s store) put(ctx context.Context, key, value string) error {
	form := strings.NewReader(url.Values{"value": {value}}.Encode())
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, s.base+"/v2/keys"+key, form)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := s.client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("put %q: %s", key, answer.Status)
	}
	return err
}

// node is a key or folder of the v2 store.
type node struct {
	Key, Value string
	Dir        bool
	Nodes      []node
}

// read gives all keys with their values.
func (s store) read(t *testing.T) map[string]string {
	t.Helper()
	answer, err := s.client.Get(s.base + "/v2/keys?recursive=true&quorum=true")
	must(t, err)
	defer answer.Body.Close()
	var reply struct{ Node node }
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("read v2 keys: %s", answer.Status)
	}
	must(t, json.NewDecoder(answer.Body).Decode(&reply))
	keys := map[string]string{}
	reply.Node.gather(keys)
	return keys
}

func (n node) gather(keys map[string]string) {
	if !n.Dir {
		keys[n.Key] = n.Value
	}
	for _, inner := range n.Nodes {
		inner.gather(keys)
	}
}

// ledger knows what was written and what of it etcd has confirmed. Each key is written once, so its value tells where it
// is from.
type ledger struct {
	mu        sync.Mutex
	tried     map[string]string
	confirmed map[string]string
}

func newLedger() *ledger {
	return &ledger{tried: map[string]string{}, confirmed: map[string]string{}}
}

// write puts a new key and notes that. Values are long enough that all of them do not fit into one page of the log.
func (l *ledger) write(ctx context.Context, s store, key string) error {
	value := strings.Repeat(key+" ", 10)
	l.mu.Lock()
	l.tried[key] = value
	l.mu.Unlock()
	if err := s.put(ctx, key, value); err != nil {
		return err
	}
	l.mu.Lock()
	l.confirmed[key] = value
	l.mu.Unlock()
	return nil
}

// now copies what is confirmed at this moment.
func (l *ledger) now() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	copied := make(map[string]string, len(l.confirmed))
	for key, value := range l.confirmed {
		copied[key] = value
	}
	return copied
}

// check wants everything in got that was confirmed before the snapshot, and nothing that was never written.
func (l *ledger) check(t *testing.T, got, before map[string]string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	missing, strange := 0, 0
	for key, value := range before {
		if got[key] != value {
			missing++
		}
	}
	for key, value := range got {
		if l.tried[key] != value {
			strange++
		}
	}
	if missing > 0 || strange > 0 || len(before) == 0 {
		t.Errorf("%d v2 keys: %d of %d confirmed ones are missing or differ, %d are not from the source", len(got), missing, len(before), strange)
	}
}

// underLoad writes v2 and v3 keys through every unit, some hundred times a second, while work goes on. The v3 keys are in the same log: the tools have to
// leave them out.
func underLoad(t *testing.T, h *home.Home, l *ledger, units []string, work func()) {
	t.Helper()
	const pause = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range units {
		s, etcd := storeOf(t, h, name), h.Etcd(t, name)
		group.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				err := l.write(ctx, s, fmt.Sprintf("/load/%d/%d", i, n))
				for range 3 {
					if err == nil {
						_, err = etcd.Put(ctx, fmt.Sprintf("load/%d/%d", i, n%100), "v3 only")
					}
				}
				if err != nil && ctx.Err() == nil {
					return err
				}
				select {
				case <-time.After(pause):
				case <-ctx.Done():
				}
			}
			return nil
		})
	}
	defer func() {
		cancel()
		must(t, group.Wait())
	}()
	work()
}
