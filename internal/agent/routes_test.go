package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/pki"
)

// TestRoles calls every route in every role. The table is the contract, written down once more.
func TestRoles(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	f.serve(t, a)
	const all, operators = "operator agent reader", "operator"
	table := map[string]struct {
		roles string
		body  string
		good  int // the status for who may
	}{
		"GET /v1/unit":               {all, "", http.StatusOK},
		"GET /v1/actions":            {all, "", http.StatusOK},
		"GET /v1/tasks":              {all, "", http.StatusOK},
		"GET /v1/tasks/x":            {all, "", http.StatusNotFound},
		"POST /v1/tasks":             {operators, `{"key":"k","action":"health"}`, http.StatusOK},
		"POST /v1/tasks/x/cancel":    {operators, "{}", http.StatusNotFound},
		"GET /v1/files?path=x":       {operators, "", http.StatusNotFound},
		"PUT /v1/files?path=ROLE":    {operators, "content", http.StatusOK},
		"PUT /v1/resources/snapshot": {operators, "content", http.StatusOK},
	}
	if got := len(routes()); got != len(table) {
		t.Errorf("%d routes are tested, there are %d", len(table), got)
	}
	for _, role := range []pki.Role{pki.Operator, pki.Agent, pki.Reader} {
		client := f.http(t, f.as(t, role))
		for route, want := range table {
			method, path, _ := strings.Cut(route, " ")
			status, answer := call(t, client, method, f.url(strings.ReplaceAll(path, "ROLE", string(role))), want.body)
			allowed := strings.Contains(want.roles, string(role))
			if allowed && status != want.good || !allowed && status != http.StatusForbidden {
				t.Errorf("%s as %s: %d %s", route, role, status, answer)
			}
			if !allowed && !strings.Contains(answer, fmt.Sprintf(`role \"%s\" may not %s`, role, method)) {
				t.Errorf("%s as %s: %s", route, role, answer)
			}
		}
	}
	if got := f.files(t, f.inRoot("/")); len(got) != 1 || got[0] != "/home/ubuntu/operator" {
		t.Errorf("files on the unit: %q", got)
	}
	if tasks := a.runner.Tasks(); len(tasks) != 1 {
		t.Errorf("tasks %+v", tasks)
	}
	t.Run("other certificates", func(t *testing.T) { checkStrangers(t, f) })
}

// checkStrangers calls without a certificate, and with ones that are not a role's.
func checkStrangers(t *testing.T, f *fixture) {
	good := f.as(t, pki.Operator)
	issue := func(change func(*x509.Certificate)) *tls.Config {
		config := good.Clone()
		config.GetClientCertificate = nil
		config.Certificates = []tls.Certificate{forge(t, filepath.Join(f.dir, "pki", "agent-api.pem"), change)}
		return config
	}
	none := good.Clone()
	none.GetClientCertificate = nil
	etcd, err := pki.ClientTLS(f.config.Record.TLS)
	must(t, err)
	other := good.Clone()
	other.GetClientCertificate = etcd.GetClientCertificate
	role := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			for _, name := range names {
				c.URIs = append(c.URIs, &url.URL{Scheme: "holdfast", Opaque: "role:" + name})
			}
		}
	}
	for name, tt := range map[string]struct {
		config *tls.Config
		status int // 0 means that TLS refuses
		want   string
	}{
		"none":                  {none, 0, "certificate required"},
		"of etcd's authority":   {other, 0, "unknown certificate authority"},
		"expired":               {issue(func(c *x509.Certificate) { role("operator")(c); c.NotAfter = time.Now().Add(-time.Minute) }), 0, "expired certificate"},
		"for servers only":      {issue(func(c *x509.Certificate) { role("operator")(c); c.ExtKeyUsage[0] = x509.ExtKeyUsageServerAuth }), 0, "bad certificate"},
		"no role":               {issue(role()), http.StatusForbidden, "carries no role"},
		"two roles":             {issue(role("reader", "operator")), http.StatusForbidden, "want one of operator, agent, reader"},
		"unknown role":          {issue(role("admin")), http.StatusForbidden, "want one of operator, agent, reader"},
		"role with capitals":    {issue(role("Operator")), http.StatusForbidden, "want one of operator, agent, reader"},
		"made by the same hand": {issue(role("operator")), http.StatusOK, `"unit":"etcd/0"`},
	} {
		answer, err := f.http(t, tt.config).Get(f.url(api.PathUnit))
		if tt.status == 0 {
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		must(t, err)
		body, err := io.ReadAll(answer.Body)
		must(t, errors.Join(err, answer.Body.Close()))
		if answer.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s: %d %s", name, answer.StatusCode, body)
		}
	}
}

// forge makes a certificate of an authority whose key is in a file, as nobody should.
func forge(t *testing.T, authority string, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	data, err := os.ReadFile(authority)
	must(t, err)
	keyBlock, rest := pem.Decode(data)
	caBlock, _ := pem.Decode(rest)
	caKey, err := x509.ParsePKCS8PrivateKey(keyBlock.Bytes)
	must(t, err)
	ca, err := x509.ParseCertificate(caBlock.Bytes)
	must(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// call sends a request and gives the status and the body of the answer, which must be JSON.
func call(t *testing.T, client *http.Client, method, url, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	must(t, err)
	answer, err := client.Do(request)
	must(t, err)
	text, err := io.ReadAll(answer.Body)
	must(t, errors.Join(err, answer.Body.Close()))
	if answer.Header.Get("Content-Type") == "application/json" && !json.Valid(text) || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %s: %v %s", method, url, answer.Header, text)
	}
	return answer.StatusCode, string(text)
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	f.serve(t, a)
	client := f.http(t, f.as(t, pki.Operator))
	long := strings.Repeat("x", mostRequest)
	for name, tt := range map[string]struct {
		method, path, body string
		status             int
		want               string
	}{
		"no such route":       {"GET", "/v2/unit", "", http.StatusNotFound, `unit \"etcd/0\" has no GET /v2/unit; is its agent of another version?`},
		"no such method":      {"DELETE", "/v1/tasks", "", http.StatusNotFound, "has no DELETE /v1/tasks"},
		"not JSON":            {"POST", "/v1/tasks", "key=k", http.StatusBadRequest, "read request: "},
		"empty":               {"POST", "/v1/tasks", "", http.StatusBadRequest, "read request: EOF"},
		"unknown field":       {"POST", "/v1/tasks", `{"key":"k","action":"health","colour":1}`, http.StatusBadRequest, `unknown field \"colour\"`},
		"two values":          {"POST", "/v1/tasks", `{"key":"k","action":"health"}{}`, http.StatusBadRequest, "more than one value"},
		"no key":              {"POST", "/v1/tasks", `{"action":"health"}`, http.StatusBadRequest, "key is missing"},
		"unknown action":      {"POST", "/v1/tasks", `{"key":"k","action":"dance"}`, http.StatusNotFound, `action \"dance\" not defined on unit \"etcd/0\"`},
		"undeclared param":    {"POST", "/v1/tasks", `{"key":"k","action":"health","params":{"a":1}}`, http.StatusBadRequest, "additional property"},
		"wrong type":          {"POST", "/v1/tasks", `{"key":"k","action":"compact","params":{"revision":"7"}}`, http.StatusBadRequest, "must be of type integer, given \\\"7\\\""},
		"no whole number":     {"POST", "/v1/tasks", `{"key":"k","action":"compact","params":{"revision":7.5}}`, http.StatusBadRequest, "must be of type integer, given 7.5"},
		"too large a number":  {"POST", "/v1/tasks", `{"key":"k","action":"compact","params":{"revision":9223372036854775808}}`, http.StatusBadRequest, "must be of type integer"},
		"no number at all":    {"POST", "/v1/tasks", `{"key":"k","action":"compact","params":{"revision":1e999}}`, http.StatusBadRequest, "value out of range"},
		"too long":            {"POST", "/v1/tasks", `{"key":"k","action":"` + long + `"}`, http.StatusRequestEntityTooLarge, "longer than 1048576 bytes"},
		"too long for a task": {"POST", "/v1/tasks", `{"key":"k","action":"snapshot","params":{"target":"` + long[:mostRequest/2] + `"}}`, http.StatusBadRequest, "is too long"},
		"too long a key":      {"POST", "/v1/tasks", `{"key":"` + long[:300] + `","action":"health"}`, http.StatusBadRequest, "is too long"},
		"no such task":        {"GET", "/v1/tasks/x", "", http.StatusNotFound, `task not found: \"x\"`},
		"bad wait":            {"GET", "/v1/tasks/x?wait=soon", "", http.StatusBadRequest, `wait \"soon\" is no duration`},
		"negative wait":       {"GET", "/v1/tasks/x?wait=-1s", "", http.StatusBadRequest, "is no duration"},
		"no such resource":    {"PUT", "/v1/resources/etcd", "x", http.StatusNotFound, `application \"etcd\" has no resource \"etcd\"`},
		"resource as a path":  {"PUT", "/v1/resources/..%2Fsnapshot", "x", http.StatusNotFound, "has no resource"},
	} {
		if status, answer := call(t, client, tt.method, f.url(tt.path), tt.body); status != tt.status || !strings.Contains(answer, tt.want) || !strings.HasPrefix(answer, `{"error":"`) {
			t.Errorf("%s: %d %.200s", name, status, answer)
		}
	}
	if tasks := a.runner.Tasks(); len(tasks) != 0 {
		t.Errorf("tasks %+v", tasks)
	}
	if log := f.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("the callers' mistakes are the agent's errors:\n%s", log)
	}
	if got := f.files(t, f.inRoot("/")); len(got) != 0 {
		t.Errorf("files on the unit: %q", got)
	}
}

// TestLargeNumbersStayExact follows a revision that no float64 holds from the request to the journal.
func TestLargeNumbersStayExact(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	a := f.open(t)
	stop := f.serve(t, a)
	for _, revision := range []int64{0, 123, 1<<53 + 1, 1<<63 - 1} {
		request := api.TaskRequest{Key: fmt.Sprint(revision), Action: "compact", Params: action.Params{"revision": revision}, Program: "juju", Number: 4, Operation: 3}
		task, err := f.operator(t).Enqueue(t.Context(), request)
		must(t, err)
		again, err := f.operator(t).Enqueue(t.Context(), request)
		if err != nil || again.ID != task.ID {
			t.Errorf("the same key gives task %q and %q: %v", task.ID, again.ID, err)
		}
		if task.Params.Int("revision") != revision || task.Program != "juju" || task.Number != 4 || task.Operation != 3 || task.Status != action.Pending {
			t.Errorf("task %+v", task)
		}
	}
	stop()
	reopened := f.open(t)
	defer reopened.Close()
	tasks := reopened.runner.Tasks()
	if len(tasks) != 4 || tasks[3].Params.Int("revision") != 1<<63-1 || tasks[2].Params.Int("revision") != 1<<53+1 {
		t.Errorf("tasks after a restart %+v", tasks)
	}
}

// running tells whether a goroutine of this process is in a function.
func running(function string) error {
	stacks := make([]byte, 1<<20)
	if !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), function) {
		return fmt.Errorf("nothing is in %s", function)
	}
	return nil
}

func TestStatusOfErrors(t *testing.T) {
	for want, errs := range map[int][]error{
		http.StatusNotFound:            {action.ErrTaskNotFound, &action.UnknownActionError{}},
		http.StatusBadRequest:          {&action.ParamsError{}, badRequest("x")},
		http.StatusTooManyRequests:     {action.ErrQueueFull},
		http.StatusInsufficientStorage: {&fs.PathError{Err: syscall.ENOSPC}, syscall.EDQUOT},
		http.StatusInternalServerError: {errors.New("x"), io.ErrUnexpectedEOF, syscall.EIO},
		http.StatusTeapot:              {refusal{http.StatusTeapot, action.ErrQueueFull}},
	} {
		for _, err := range errs {
			if got := statusOf(fmt.Errorf("a: %w", errors.Join(errors.New("b"), err))); got != want {
				t.Errorf("%v has status %d, want %d", err, got, want)
			}
		}
	}
}

func TestWaitForTask(t *testing.T) {
	f := newFixture(t)
	a := f.open(t)
	stop := f.serve(t, a)
	client := f.operator(t)
	task, err := client.Enqueue(t.Context(), api.TaskRequest{Key: "k", Action: "health"})
	must(t, err)
	// Nothing carries tasks out here, so that it stays pending.
	begun := time.Now()
	if got, err := client.Task(t.Context(), task.ID, 200*time.Millisecond); err != nil || got.Status != action.Pending || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("after %s: %+v, %v", time.Since(begun), got, err)
	}
	wait := func(ctx context.Context) chan error {
		result := make(chan error, 1)
		go func() {
			got, err := client.Task(ctx, task.ID, 20*time.Second)
			if err == nil {
				err = errors.New(string(got.Status))
			}
			result <- err
		}()
		return result
	}
	leaving, leave := context.WithCancel(t.Context())
	first, second := wait(leaving), wait(t.Context())
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	cancelled, err := client.Cancel(t.Context(), task.ID)
	if err != nil || cancelled.Status != action.Cancelled {
		t.Errorf("cancel: %+v, %v", cancelled, err)
	}
	if err := <-second; err.Error() != "cancelled" || time.Since(begun) > 15*time.Second {
		t.Errorf("who waited, after %s: %v", time.Since(begun), err)
	}
	// Who waits when the agent stops is told how things are, at once.
	if task, err = client.Enqueue(t.Context(), api.TaskRequest{Key: "l", Action: "health"}); err != nil {
		t.Fatal(err)
	}
	third := make(chan error, 1)
	transport := f.http(t, f.as(t, pki.Reader))
	go func() {
		answer, err := transport.Get(f.url("/v1/tasks/" + task.ID + "?wait=20s"))
		if err == nil {
			var body bytes.Buffer
			_, err = body.ReadFrom(answer.Body)
			if answer.Body.Close(); !strings.Contains(body.String(), `"status":"pending"`) {
				err = fmt.Errorf("%d %s", answer.StatusCode, body.String())
			}
		}
		third <- err
	}()
	eventually(t, func() error { return running("action.(*Runner).await") })
	begun = time.Now()
	stop()
	if err := <-third; err != nil || time.Since(begun) > a.bounds.stop/2 {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	if log := f.log.String(); strings.Contains(log, "level=ERROR") {
		t.Errorf("callers who leave are errors:\n%s", log)
	}
}
