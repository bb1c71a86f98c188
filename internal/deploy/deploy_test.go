package deploy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/cli"
	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/etcdtest"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/member"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// The test binary is also the program that a provider starts: by its first argument it is the spawn step, an agent, or etcd.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && slices.Contains([]string{"spawn", "agent", "etcd"}, os.Args[1]) {
		os.Exit(cli.Run(context.Background(), cli.Environment{
			Args: os.Args[1:], Program: "holdfast", Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv,
		}))
	}
	os.Exit(m.Run())
}

const canary = "do-not-pass-this-on"

// world is a home with a provider; its processes end with the test. One at a time: a process takes its ports in order, and
// looks only at those of one home.
type world struct {
	*deploy.Provider
	said []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	program, err := os.Executable()
	must(t, err)
	home := filepath.Join(t.TempDir(), "home")
	w := &world{}
	w.Provider = &deploy.Provider{
		Home: home, Program: program, Inventory: inventory.Open(filepath.Join(home, "inventory.yaml")),
		Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "ETCD_NAME=" + canary, "AWS_SECRET_ACCESS_KEY=" + canary},
		Say:     func(format string, args ...any) { w.said = append(w.said, fmt.Sprintf(format, args...)) },
	}
	t.Cleanup(func() {
		for _, name := range w.view(t).Names() {
			if err := w.Destroy(context.Background(), name); err != nil {
				t.Error(err)
			}
		}
	})
	return w
}

func (w *world) view(t *testing.T) *inventory.Inventory {
	t.Helper()
	inv, err := w.Inventory.View()
	must(t, err)
	return inv
}

func (w *world) record(t *testing.T, name unit.Name) unit.Record {
	t.Helper()
	record, err := w.view(t).Unit(name)
	must(t, err)
	return record
}

// client gives a client of a unit's agent as the operator has it.
func (w *world) client(t *testing.T, name unit.Name) *api.Client {
	t.Helper()
	config, err := pki.ClientTLS(pki.Files(deploy.OperatorFolder(w.Home), "operator"))
	must(t, err)
	c := api.NewClient(name, w.record(t, name).Agent, config)
	t.Cleanup(c.Close)
	return c
}

// healthy waits until every unit is a healthy voting member of a cluster of all of them.
func (w *world) healthy(t *testing.T, names ...unit.Name) map[unit.Name]api.Unit {
	t.Helper()
	states := map[unit.Name]api.Unit{}
	for _, name := range names {
		client := w.client(t, name)
		eventually(t, func() error {
			state, err := client.Unit(t.Context())
			switch {
			case err != nil:
				return err
			case state.Etcd.Error != "" || state.Etcd.Learner || state.Etcd.Members != len(names) || state.Etcd.Healthy != len(names):
				return fmt.Errorf("unit %q: %+v", name, state.Etcd)
			}
			states[name] = state
			return nil
		})
	}
	return states
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func named(application string, number int) unit.Name {
	return unit.Name{Application: application, Number: number}
}

// TestLifeOfAnApplication deploys two units, and looks at all that was made; loses an agent, adds a unit, removes one, and
// destroys the rest.
func TestLifeOfAnApplication(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	etcd := etcdtest.Get(t, "3.7")
	options := deploy.Options{EtcdBinary: etcd.Server, EtcdTools: filepath.Dir(etcd.Ctl), EtcdArgs: []string{"--snapshot-count=12345"}}
	names, err := w.Deploy(ctx, "etcd", 2, options)
	must(t, err)
	if want := []unit.Name{named("etcd", 0), named("etcd", 1)}; !slices.Equal(names, want) {
		t.Fatalf("deployed %v, want %v", names, want)
	}
	for _, name := range names { // nobody else could take the ports of units that are not healthy yet
		record := w.record(t, name)
		for _, address := range []string{record.Agent, strings.TrimPrefix(record.ClientURLs[0], "https://"), strings.TrimPrefix(record.PeerURL, "https://")} {
			if listener, err := net.Listen("tcp", address); err == nil {
				listener.Close()
				t.Errorf("unit %q: nobody listens on %q when the deploy returns", name, address)
			}
		}
	}
	states := w.healthy(t, names...)
	w.checkRecords(t, names, options)
	w.checkModes(t)
	w.checkCertificates(t, names)
	w.checkListeners(t, names)
	w.checkProcesses(t, states)
	w.checkRestart(t, states)
	if again, err := w.Deploy(ctx, "etcd", 1, options); err == nil || len(again) != 0 || !strings.Contains(err.Error(), `cannot add application "etcd"`) {
		t.Errorf("a second one of the name: %v, %v", again, err)
	}

	added, err := w.AddUnit(ctx, "etcd")
	must(t, err)
	if added != named("etcd", 2) || !slices.Contains(w.said, "etcd/2: joining as a learner") || !slices.Contains(w.said, "etcd/2: voting member") {
		t.Errorf("added %v, said %q", added, w.said)
	}
	names = append(names, added)
	w.healthy(t, names...)
	if record := w.record(t, added); record.EtcdBinary != options.EtcdBinary || !slices.Equal(record.EtcdArgs, options.EtcdArgs) || record.EtcdTools != options.EtcdTools {
		t.Errorf("it runs something else than the others: %+v", record)
	}
	joined, err := config.LoadAgent(w.ConfigFile(added))
	must(t, err)
	if joined.Cluster.State != config.Existing || len(joined.Cluster.Members) != 3 {
		t.Errorf("it joins %+v", joined.Cluster)
	}

	w.checkRemove(t, names)
	folders := w.Folder(names[0])
	must(t, w.Destroy(ctx, "etcd"))
	if _, err := os.Stat(folders); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	if inv := w.view(t); len(inv.Applications) != 0 || inv.Retired["etcd"] != 3 {
		t.Errorf("inventory %+v", inv)
	}
	if err := w.Destroy(ctx, "etcd"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("destroy it again: %v", err)
	}
}

func (w *world) checkRecords(t *testing.T, names []unit.Name, options deploy.Options) {
	taken := map[string]bool{}
	cluster := map[string]string{}
	for _, name := range names {
		cluster[name.Dir()] = w.record(t, name).PeerURL
	}
	var token string
	for _, name := range names {
		record, folder := w.record(t, name), filepath.Join(w.Home, "units", name.Dir())
		for _, address := range []string{record.Agent, strings.TrimPrefix(record.ClientURLs[0], "https://"), strings.TrimPrefix(record.PeerURL, "https://")} {
			host, port, err := net.SplitHostPort(address)
			if err != nil || host != "127.0.0.1" || taken[port] {
				t.Errorf("unit %q: address %q", name, address)
			}
			taken[port] = true
		}
		want := record // the addresses are by chance
		want.Member, want.Service = name.Dir(), unit.Service{Kind: unit.Child}
		want.Root, want.DataDir = filepath.Join(folder, "root"), filepath.Join(folder, "root", "var", "lib", "etcd")
		want.TLS, want.ServerTLS = pki.Files(filepath.Join(folder, "tls"), "etcd-client"), pki.Files(filepath.Join(folder, "tls"), "etcd-server")
		want.PeerTLS = pki.Files(filepath.Join(folder, "tls"), "etcd-peer")
		want.EtcdBinary, want.EtcdTools, want.EtcdArgs = options.EtcdBinary, options.EtcdTools, options.EtcdArgs
		want.WALDir, want.Target = "", ""
		if diff := cmp.Diff(want, record); diff != "" {
			t.Errorf("record of %q (-want +got):\n%s", name, diff)
		}
		loaded, err := config.LoadAgent(w.ConfigFile(name))
		must(t, err)
		token = loaded.Cluster.Token
		if diff := cmp.Diff(config.Agent{
			Unit: name, Record: record, StateDir: filepath.Join(folder, "state"), TLS: pki.Files(filepath.Join(folder, "tls"), "agent"),
			Inventory: filepath.Join(w.Home, "inventory.yaml"), Home: w.Home, Cluster: config.Cluster{Members: cluster, State: config.New, Token: token},
		}, loaded); diff != "" {
			t.Errorf("configuration of %q (-want +got):\n%s", name, diff)
		}
	}
	if !strings.HasPrefix(token, "etcd-") || len(token) < 30 {
		t.Errorf("token %q is not this cluster's own", token)
	}
}

// checkModes looks at every file and folder of the home. Certificates are for everyone, all else for the owner.
func (w *world) checkModes(t *testing.T) {
	keys := 0
	must(t, filepath.WalkDir(w.Home, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // etcd renames its files
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		switch {
		case e.IsDir():
			want = fs.ModeDir | 0o700
		case filepath.Ext(path) == ".crt":
			want = 0o644
		case filepath.Ext(path) == ".key":
			keys++
		}
		if info.Mode() != want {
			t.Errorf("%q has mode %s, want %s", path, info.Mode(), want)
		}
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), "PRIVATE KEY") && want != 0o600 {
			t.Errorf("%q holds a key", path)
		}
		return nil
	}))
	if keys != 2*4+2 { // 4 identities of each unit, 2 of the operator
		t.Errorf("%d keys were found", keys)
	}
}

func (w *world) checkCertificates(t *testing.T, names []unit.Name) {
	type identity struct {
		file, commonName string
		role             pki.Role
		server           bool
		trusts           string // the file of an identity of the same authority
	}
	check := func(dir string, want identity) {
		files := pki.Files(dir, want.file)
		certificate, err := pki.ReadCertificate(files.Cert)
		must(t, err)
		role, err := pki.RoleOf(certificate)
		if role != want.role || (want.role == "") != errors.Is(err, pki.ErrNoRole) {
			t.Errorf("%q has role %q: %v", files.Cert, role, err)
		}
		isServer := slices.Contains(certificate.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		if certificate.Subject.CommonName != want.commonName || isServer != want.server || (certificate.VerifyHostname("127.0.0.1") == nil) != want.server || certificate.IsCA {
			t.Errorf("%q is of %q, server %v", files.Cert, certificate.Subject.CommonName, isServer)
		}
		pool, other := x509.NewCertPool(), x509.NewCertPool()
		for file, into := range map[string]*x509.CertPool{files.CA: pool, pki.Files(dir, want.trusts).CA: other} {
			data, err := os.ReadFile(file)
			must(t, err)
			if strings.Contains(string(data), "PRIVATE") || !into.AppendCertsFromPEM(data) {
				t.Errorf("%q is no CA certificate", file)
			}
		}
		usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: usage}); err != nil {
			t.Errorf("%q is not of its own authority: %v", files.Cert, err)
		}
		if _, err := certificate.Verify(x509.VerifyOptions{Roots: other, KeyUsages: usage}); err == nil {
			t.Errorf("%q is of the authority of %q as well", files.Cert, want.trusts)
		}
	}
	for _, name := range names {
		dir := filepath.Join(w.Folder(name), "tls")
		check(dir, identity{"etcd-client", "root", "", false, "etcd-peer"})
		check(dir, identity{"etcd-server", name.Dir(), "", true, "agent"})
		check(dir, identity{"etcd-peer", name.Dir(), "", true, "etcd-server"})
		check(dir, identity{"agent", name.Dir(), pki.Agent, true, "etcd-client"})
	}
	check(deploy.OperatorFolder(w.Home), identity{"operator", "operator", pki.Operator, false, "etcd"})
	check(deploy.OperatorFolder(w.Home), identity{"etcd", "root", "", false, "operator"})
}

// checkListeners wants every port of a unit to turn callers without the right certificate away.
func (w *world) checkListeners(t *testing.T, names []unit.Name) {
	strangers := etcdtest.NewTLS(t)
	for _, name := range names {
		record := w.record(t, name)
		for _, address := range []string{record.Agent, strings.TrimPrefix(record.ClientURLs[0], "https://"), strings.TrimPrefix(record.PeerURL, "https://")} {
			for who, certificates := range map[string][]tls.Certificate{"nobody": nil, "a stranger": strangers.Config.Certificates} {
				conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, Certificates: certificates})
				if err == nil {
					// With TLS 1.3 the refusal comes after the caller's part.
					must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
					_, err = conn.Write([]byte("GET /v1/unit HTTP/1.1\r\nHost: x\r\n\r\n"))
					if err == nil {
						_, err = conn.Read(make([]byte, 1))
					}
					conn.Close()
				}
				if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%s of %q lets %s in: %v", address, name, who, err)
				}
			}
		}
	}
}

// checkProcesses wants nothing of the caller's environment in the processes, and no key or token on their command lines.
func (w *world) checkProcesses(t *testing.T, states map[unit.Name]api.Unit) {
	for name, state := range states {
		agent, err := os.ReadFile(filepath.Join(w.Folder(name), "state", "agent.pid"))
		must(t, err)
		number, _, _ := strings.Cut(strings.TrimPrefix(string(agent), `{"pid":`), ",")
		for what, pid := range map[string]string{"agent": number, "etcd": strconv.Itoa(state.Etcd.PID)} {
			environ, err := os.ReadFile(filepath.Join("/proc", pid, "environ"))
			must(t, err)
			cmdline, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			must(t, err)
			if strings.Contains(string(environ), canary) || strings.Contains(string(cmdline), canary) || !strings.Contains(string(environ), "PATH=") {
				t.Errorf("%s of %q: environment %q, arguments %q", what, name, environ, cmdline)
			}
			if status, err := os.ReadFile(filepath.Join("/proc", pid, "status")); err != nil || !strings.Contains(string(status), "Umask:\t0077") {
				t.Errorf("%s of %q: it makes files that others can read: %v", what, name, err)
			}
		}
	}
}

// checkRestart kills an agent and starts it again: its etcd serves on.
func (w *world) checkRestart(t *testing.T, before map[unit.Name]api.Unit) {
	ctx, name := t.Context(), named("etcd", 1)
	names := []unit.Name{named("etcd", 0), name, named("elsewhere", 0)}
	if started, err := w.Start(ctx, names); err != nil || len(started) != 0 {
		t.Errorf("started %v where all run: %v", started, err)
	}
	data, err := os.ReadFile(filepath.Join(w.Folder(name), "state", "agent.pid"))
	must(t, err)
	number, _, _ := strings.Cut(strings.TrimPrefix(string(data), `{"pid":`), ",")
	pid, err := strconv.Atoi(number)
	must(t, err)
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	eventually(t, func() error {
		started, err := w.Start(ctx, names)
		if err == nil && !slices.Equal(started, []unit.Name{name}) {
			err = fmt.Errorf("started %v", started)
		}
		return err
	})
	after := w.healthy(t, name, named("etcd", 0))
	if was, is := before[name].Etcd, after[name].Etcd; was.PID != is.PID || was.Started != is.Started {
		t.Errorf("etcd was process %d, is %d", was.PID, is.PID)
	}
	if log, err := w.AgentLog(name, 100); err != nil || !strings.Contains(log, "agent serves") || !strings.Contains(log, "etcd adopted") {
		t.Errorf("the agent's log: %v\n%s", err, log)
	}
}

func (w *world) checkRemove(t *testing.T, names []unit.Name) {
	ctx, gone := t.Context(), names[0] // often the leader
	state, err := w.client(t, gone).Unit(ctx)
	must(t, err)
	record := w.record(t, gone)
	removed, err := w.RemoveUnit(ctx, gone)
	must(t, err)
	keptAt := removed.KeptAt
	if folders, err := w.RemovedFolders("etcd"); err != nil || !slices.Equal(folders, []string{keptAt}) || removed.Voting != 2 {
		t.Errorf("removed %+v, kept %q: %v", removed, folders, err)
	}
	if folders, err := w.RemovedFolders("etc"); err != nil || len(folders) != 0 {
		t.Errorf("of another application: %q, %v", folders, err)
	}
	if filepath.Dir(keptAt) != filepath.Join(w.Home, "removed") {
		t.Errorf("kept at %q", keptAt)
	}
	if _, err := os.Stat(filepath.Join(keptAt, "root", "var", "lib", "etcd", "member", "snap", "db")); err != nil {
		t.Errorf("its data is not kept: %v", err)
	}
	if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(state.Etcd.PID), "exe")); err == nil {
		t.Errorf("its etcd runs")
	}
	if conn, err := net.Dial("tcp", record.Agent); err == nil {
		conn.Close()
		t.Error("its agent runs")
	}
	if _, err := w.view(t).Unit(gone); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("the inventory has it: %v", err)
	}
	w.healthy(t, names[1:]...)
	tlsConfig, err := w.EtcdTLS()
	must(t, err)
	health := member.CheckHealth(ctx, w.record(t, names[1]).ClientURLs[0], tlsConfig)
	if !health.Healthy() || len(health.Members) != 2 {
		t.Errorf("health\n%s", health)
	}
	if _, err := w.RemoveUnit(ctx, gone); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("remove it again: %v", err)
	}
}

// TestLastUnitStays refuses to remove it, and to add to a cluster that does not answer. It runs the etcd of this program.
func TestLastUnitStays(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	names, err := w.Deploy(ctx, "new-etcd", 1, deploy.Options{})
	must(t, err)
	states := w.healthy(t, names...)
	const last = `nothing was removed: no unit of application "new-etcd" would be left; destroy the application instead`
	if _, err := w.RemoveUnit(ctx, names[0]); err == nil || err.Error() != last {
		t.Errorf("remove the last: %v", err)
	}
	if _, err := w.CheckRemovable(ctx, names); err == nil || err.Error() != last {
		t.Errorf("check the last: %v", err)
	}
	if _, err := w.CheckRemovable(ctx, append(names, names...)); err == nil || err.Error() != `nothing was removed: unit "new-etcd/0" is named twice` {
		t.Errorf("check one twice: %v", err)
	}
	w.healthy(t, names...)
	pid := states[names[0]].Etcd.PID
	must(t, syscall.Kill(pid, syscall.SIGSTOP))
	begun := time.Now()
	_, err = w.AddUnit(ctx, "new-etcd")
	if err == nil || !strings.Contains(err.Error(), `application "new-etcd" has no healthy member`) || !strings.Contains(err.Error(), `unit "new-etcd/0"`) || time.Since(begun) > 30*time.Second {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
	must(t, syscall.Kill(pid, syscall.SIGCONT))
	if inv := w.view(t); len(inv.Applications["new-etcd"].Units) != 1 || inv.Applications["new-etcd"].NextUnit != 1 {
		t.Errorf("inventory %+v", inv.Applications["new-etcd"])
	}
	if _, err := w.AddUnit(ctx, "old-etcd"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("add to an application that is not there: %v", err)
	}
}

func TestRefusedDeployLeavesNothing(t *testing.T) {
	w := newWorld(t)
	for application, n := range map[string]int{"etcd": 0, "Etcd": 1, "": 1, "etcd-1": 2, "x": -1} {
		if names, err := w.Deploy(t.Context(), application, n, deploy.Options{}); err == nil || len(names) != 0 {
			t.Errorf("%q with %d units: %v", application, n, names)
		}
	}
	if inv := w.view(t); len(inv.Applications) != 0 || len(inv.Retired) != 0 {
		t.Errorf("inventory %+v", inv)
	}
	if entries, err := os.ReadDir(filepath.Join(w.Home, "units")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("units %v: %v", entries, err)
	}
	if err := w.Destroy(t.Context(), "etcd"); !errors.Is(err, inventory.ErrNotFound) {
		t.Errorf("destroy: %v", err)
	}
	if _, err := w.AgentLog(named("etcd", 0), 1); err == nil {
		t.Error("there is a log of an agent that never was")
	}
}
