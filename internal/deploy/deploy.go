// Package deploy is the local provider: it makes the units of an application out of processes and folders of this machine.
//
// A unit is a folder of its own, an agent, and the etcd that the agent supervises. Everything goes through the inventory
// and an agent configuration, so a unit on another machine differs only in who wrote these. A Provider is safe for use by
// several processes at once as far as the inventory is, also for several homes; it promises no more than that of two who
// work on one application.
//
//	$HOLDFAST_HOME/units/etcd-0/agent.yaml   the agent's configuration
//	$HOLDFAST_HOME/units/etcd-0/tls/         certificates and keys of the unit
//	$HOLDFAST_HOME/units/etcd-0/state/       journal, attached resources, process records, logs
//	$HOLDFAST_HOME/units/etcd-0/root/        what action paths are inside of; etcd's data dir is root/var/lib/etcd
package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-project/holdfast/internal/config"
	"github.com/holdfast-project/holdfast/internal/durable"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/service"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// Provider makes and removes units on this machine.
type Provider struct {
	// Home is the folder of all local state.
	Home string
	// Program is the path of this program, which is agent and etcd as well.
	Program string
	// Inventory is the file that lists the units.
	Inventory *inventory.File
	// Environ is the environment of this program; what a server may see of it is passed on.
	Environ []string
	// Say tells people what happens, a line at a time. Nil is silence.
	Say func(format string, args ...any)

	// reserved are ports of units that may not listen on them yet.
	reserved map[string]io.Closer
}

// Options say what the units of a new application run.
type Options struct {
	// EtcdBinary is the etcd server to run, absolute. Empty means the one inside this program.
	EtcdBinary string
	// EtcdTools is the folder with that server's own etcdctl and etcdutl, absolute. Empty where there is none.
	EtcdTools string
	// EtcdArgs are added to the server's arguments.
	EtcdArgs []string
}

// Deploy makes an application of n units that form one new cluster, and starts them. It does not wait for their health, only
// until they listen, so that nobody else takes their ports.
func (p *Provider) Deploy(ctx context.Context, application string, n int, o Options) ([]unit.Name, error) {
	if n < 1 {
		return nil, fmt.Errorf("deploy %q: want at least one unit, given %d", application, n)
	}
	var names []unit.Name
	err := p.Inventory.Update(func(inv *inventory.Inventory) error {
		if _, err := inv.AddApplication(application); err != nil {
			return err
		}
		for range n {
			name, err := p.addRecord(inv, application, o)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	inv, err := p.Inventory.View()
	if err != nil {
		return nil, err
	}
	cluster := config.Cluster{Members: map[string]string{}, State: config.New, Token: application + "-" + uuid.NewString()}
	for _, name := range names {
		record, err := inv.Unit(name)
		if err != nil {
			return nil, err
		}
		cluster.Members[record.Member] = record.PeerURL
	}
	for _, name := range names {
		if err := p.prepare(inv, name, cluster); err != nil {
			return names, err
		}
	}
	for _, name := range names {
		if err := p.startAgent(ctx, name); err != nil {
			return names, err
		}
	}
	return names, p.settle(ctx)
}

// addRecord takes a number for a new unit and puts its record into the inventory, with ports that nobody has.
func (p *Provider) addRecord(inv *inventory.Inventory, application string, o Options) (unit.Name, error) {
	name, err := inv.AddUnit(application)
	if err != nil {
		return name, err
	}
	ports, err := p.freePorts(inv, 3)
	if err != nil {
		return name, err
	}
	folder := p.folder(name)
	tls := filepath.Join(folder, "tls")
	return name, inv.SetUnit(name, unit.Record{
		Agent:      ports[0],
		ClientURLs: []string{"https://" + ports[1]},
		PeerURL:    "https://" + ports[2],
		Member:     name.Dir(),
		DataDir:    filepath.Join(folder, "root", "var", "lib", "etcd"),
		Root:       filepath.Join(folder, "root"),
		Service:    unit.Service{Kind: unit.Child},
		TLS:        pki.Files(tls, "etcd-client"),
		ServerTLS:  pki.Files(tls, "etcd-server"),
		PeerTLS:    pki.Files(tls, "etcd-peer"),
		EtcdBinary: o.EtcdBinary,
		EtcdTools:  o.EtcdTools,
		EtcdArgs:   o.EtcdArgs,
	})
}

func (p *Provider) folder(name unit.Name) string { return filepath.Join(p.Home, "units", name.Dir()) }

// ConfigFile is where the configuration of a unit's agent is.
func (p *Provider) ConfigFile(name unit.Name) string {
	return filepath.Join(p.folder(name), "agent.yaml")
}

// prepare writes what a unit's agent needs: folders, certificates, configuration.
func (p *Provider) prepare(inv *inventory.Inventory, name unit.Name, cluster config.Cluster) error {
	record, err := inv.Unit(name)
	if err != nil {
		return err
	}
	authorities, err := pki.Open(filepath.Join(p.Home, "pki"))
	if err != nil {
		return err
	}
	if err := p.writeOperator(authorities); err != nil {
		return err
	}
	folder := p.folder(name)
	for _, dir := range []string{record.Root, record.DataDir, filepath.Join(folder, "state")} {
		if err := durable.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	agentTLS, err := writeUnitCertificates(authorities, filepath.Join(folder, "tls"), name)
	if err != nil {
		return err
	}
	agent := config.Agent{
		Unit: name, Record: record, StateDir: filepath.Join(folder, "state"), TLS: agentTLS,
		Cluster: cluster, Inventory: filepath.Join(p.Home, "inventory.yaml"), Home: p.Home,
	}
	if err := agent.Validate(); err != nil {
		return err
	}
	encoded, err := agent.Marshal()
	if err != nil {
		return fmt.Errorf("encode agent configuration: %w", err)
	}
	return durable.WriteFile(p.ConfigFile(name), encoded, 0o600)
}

// EtcdUser is the common name of Holdfast's client certificates. An etcd with authentication on takes it for the user
// name, and only root may take snapshots.
const EtcdUser = "root"

// localhost are the names that a unit of this machine listens on.
func localhost(request pki.Request) pki.Request {
	request.DNSNames = []string{"localhost"}
	request.IPs = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	return request
}

// writeUnitCertificates issues the certificates of a unit and gives the files of its agent's.
func writeUnitCertificates(authorities *pki.Store, dir string, name unit.Name) (unit.TLSFiles, error) {
	for _, wanted := range []struct {
		file      string
		authority pki.Authority
		request   pki.Request
	}{
		{"etcd-client", pki.EtcdClient, pki.Request{CommonName: EtcdUser}},
		{"etcd-server", pki.EtcdClient, localhost(pki.Request{CommonName: name.Dir()})},
		{"etcd-peer", pki.EtcdPeer, localhost(pki.Request{CommonName: name.Dir()})},
		{"agent", pki.AgentAPI, localhost(pki.Request{CommonName: name.Dir(), Role: pki.Agent})},
	} {
		if err := issue(authorities, dir, wanted.file, wanted.authority, wanted.request); err != nil {
			return unit.TLSFiles{}, err
		}
	}
	return pki.Files(dir, "agent"), nil
}

// writeOperator makes the certificates of the person who works in this home, once: for the agents and for etcd.
func (p *Provider) writeOperator(authorities *pki.Store) (err error) {
	dir := OperatorFolder(p.Home)
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Two first deploys at once would mix the keys of the one with the certificates of the other.
	release, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if _, err := os.Stat(pki.Files(dir, "operator").Cert); err == nil {
		return nil
	}
	if err := issue(authorities, dir, "etcd", pki.EtcdClient, pki.Request{CommonName: EtcdUser}); err != nil {
		return err
	}
	return issue(authorities, dir, "operator", pki.AgentAPI, pki.Request{CommonName: "operator", Role: pki.Operator})
}

// OperatorFolder holds the certificates "operator", for agents, and "etcd", for etcd itself.
func OperatorFolder(home string) string { return filepath.Join(home, "operator") }

func issue(authorities *pki.Store, dir, file string, authority pki.Authority, request pki.Request) error {
	bundle, err := authorities.Issue(authority, request)
	if err != nil {
		return err
	}
	_, err = bundle.Write(dir, file)
	return err
}

// agentProcess is the agent of a unit as a process that outlives this one.
func (p *Provider) agentProcess(name unit.Name) (*service.Child, error) {
	return service.New(service.Options{
		Dir: filepath.Join(p.folder(name), "state"), Name: "agent", Spawn: []string{p.Program, "spawn"},
		StopTimeout: 15 * time.Second,
	})
}

// etcdProcess is the etcd of a unit, which its agent has started.
func (p *Provider) etcdProcess(name unit.Name) (*service.Child, error) {
	return service.New(service.Options{Dir: filepath.Join(p.folder(name), "state"), Spawn: []string{p.Program, "spawn"}})
}

func (p *Provider) startAgent(ctx context.Context, name unit.Name) error {
	agent, err := p.agentProcess(name)
	if err != nil {
		return err
	}
	_, err = agent.Start(ctx, service.Command{
		Path: p.Program, Args: []string{"agent", "--config", p.ConfigFile(name)}, Env: service.Environment(p.Environ),
	})
	if err != nil && !errors.Is(err, service.ErrRunning) {
		return fmt.Errorf("unit %q: %w", name, err)
	}
	return nil
}

// Start starts the agents of units that do not run, after the machine was restarted for example. It gives those it
// started.
func (p *Provider) Start(ctx context.Context, names []unit.Name) ([]unit.Name, error) {
	var started []unit.Name
	for _, name := range names {
		if _, err := os.Stat(p.ConfigFile(name)); err != nil {
			continue // a unit of another machine
		}
		agent, err := p.agentProcess(name)
		if err != nil {
			return started, err
		}
		_, running, err := agent.Running(ctx)
		if err != nil {
			return started, err
		}
		if running {
			continue
		}
		if err := p.startAgent(ctx, name); err != nil {
			return started, err
		}
		started = append(started, name)
	}
	return started, nil
}

// AgentLog gives the last lines of what a unit's agent said, for an error about a unit that does not come up.
func (p *Provider) AgentLog(name unit.Name, lines int) (string, error) {
	agent, err := p.agentProcess(name)
	if err != nil {
		return "", err
	}
	return agent.LogTail(lines)
}

func (p *Provider) say(format string, args ...any) {
	if p.Say != nil {
		p.Say(format, args...)
	}
}
