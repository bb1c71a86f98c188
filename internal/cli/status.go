package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/deploy"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/pki"
	"github.com/holdfast-project/holdfast/internal/unit"
)

func (a *app) status() *cobra.Command {
	var formatName, output string
	command := &cobra.Command{
		Use:   "status [APPLICATION]",
		Short: "Show applications and units, and how they are",
		Long: "Show applications and units, and how they are. * marks the unit whose etcd leads. The JSON form tells each unit's root,\n" +
			"the folder of this machine that paths on the unit are inside of.",
		Example: "  " + a.Program + " status\n  " + a.Program + " status etcd --format json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			format, err := juju.ParseFormat(formatName, juju.Tabular, juju.YAML, juju.JSON)
			if err != nil {
				return err
			}
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			names := m.inventory.Names()
			if len(args) == 1 {
				names = args
			}
			status := juju.Status{Model: m.inventory.Model}
			for _, name := range names {
				application, err := m.applicationStatus(c.Context(), name)
				if err != nil {
					return err
				}
				status.Applications = append(status.Applications, application)
			}
			if len(names) == 0 && format == juju.Tabular {
				a.sayEmpty(m)
				return nil
			}
			if err := a.output(output, func(w io.Writer) error { return juju.WriteStatus(w, format, status) }); err != nil {
				return err
			}
			if format == juju.Tabular {
				a.sayLost(status)
			}
			return nil
		},
	}
	command.Flags().StringVar(&formatName, "format", "tabular", "form of the output: tabular, yaml or json")
	command.Flags().StringVarP(&output, "output", "o", "", "write the output to a file")
	return command
}

// sayLost says of agents that do not answer what to do.
func (a *app) sayLost(status juju.Status) {
	for _, application := range status.Applications {
		var lost []unit.Name
		for _, one := range application.Units {
			if one.Agent == juju.AgentLost {
				lost = append(lost, one.Unit)
			}
		}
		if len(lost) > 0 {
			fmt.Fprintf(a.Stderr, "hint: the agent of %s does not answer; %s start %s starts those of this machine that do not run, and says what helps the others\n",
				joinNames(lost), a.Program, application.Name)
		}
	}
}

func (m *model) applicationStatus(ctx context.Context, application string) (juju.AppStatus, error) {
	states, err := m.unitStates(ctx, application)
	if err != nil {
		return juju.AppStatus{}, err
	}
	version := ""
	var units []juju.UnitStatus
	for _, state := range states {
		shown, err := m.unitStatus(state)
		if err != nil {
			return juju.AppStatus{}, err
		}
		units = append(units, shown)
		if state.value.Etcd.Version != "" {
			version = state.value.Etcd.Version
		}
	}
	return juju.NewAppStatus(application, version, units), nil
}

func (m *model) unitStatus(state answer[api.Unit]) (juju.UnitStatus, error) {
	record, err := m.inventory.Unit(state.name)
	if err != nil {
		return juju.UnitStatus{}, err
	}
	shown := juju.UnitStatus{Unit: state.name, Root: record.Root, Agent: juju.AgentIdle}
	if client, err := url.Parse(record.ClientURLs[0]); err == nil {
		shown.Address, shown.Machine = client.Hostname(), client.Hostname()
		shown.Ports = []string{client.Port() + "/tcp"}
	}
	if state.err != nil {
		shown.Workload, shown.Agent, shown.Message = juju.WorkloadUnknown, juju.AgentLost, "agent does not answer"
		return shown, nil
	}
	etcd := state.value.Etcd
	shown.Archive = state.value.Archive
	if state.value.Busy != "" {
		shown.Agent = juju.AgentExecuting
	}
	health := juju.Healthy
	switch {
	case etcd.Error != "":
		health = juju.Errored
	case etcd.Healthy < etcd.Members:
		health = juju.UnHealthy
	}
	shown.Leader, shown.Workload, shown.Message = etcd.Leader, health.Workload(), health.Message(etcd.Members)
	if etcd.Error != "" {
		shown.Message += ": " + etcd.Error
	}
	return shown, nil
}

// env prints what a shell needs so that etcdctl reaches an application.
func (a *app) env() *cobra.Command {
	return &cobra.Command{
		Use:     "env APPLICATION",
		Short:   "Print shell lines that make etcdctl talk to an application",
		Example: "  eval \"$(" + a.Program + " env etcd)\" && etcdctl member list",
		Args:    exactArgs(1, "one APPLICATION"),
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := a.model()
			if err != nil {
				return err
			}
			defer m.close()
			names, err := m.units(args[0])
			if err != nil {
				return err
			}
			var endpoints []string
			for _, name := range names {
				record, err := m.inventory.Unit(name)
				if err != nil {
					return err
				}
				endpoints = append(endpoints, record.ClientURLs...)
			}
			home, err := a.home()
			if err != nil {
				return err
			}
			files := pki.Files(deploy.OperatorFolder(home), "etcd")
			for _, variable := range [][2]string{
				{"ETCDCTL_API", "3"}, {"ETCDCTL_ENDPOINTS", strings.Join(endpoints, ",")},
				{"ETCDCTL_CACERT", files.CA}, {"ETCDCTL_CERT", files.Cert}, {"ETCDCTL_KEY", files.Key},
			} {
				fmt.Fprintf(a.Stdout, "export %s='%s'\n", variable[0], strings.ReplaceAll(variable[1], "'", `'\''`))
			}
			return nil
		},
	}
}
