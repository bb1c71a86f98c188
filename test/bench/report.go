package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// figures are numbers by name; a name ends in its unit.
type figures map[string]float64

// report is all that a run found out. Its JSON form is what docs/bench keeps.
type report struct {
	Bench    string            `json:"bench"`
	Question string            `json:"question"`
	Command  string            `json:"command"`
	Commit   string            `json:"commit"`
	Started  time.Time         `json:"started"`
	Seconds  float64           `json:"duration_s"`
	Machine  machine           `json:"machine"`
	Before   string            `json:"load-before"`
	After    string            `json:"load-after"`
	Versions map[string]string `json:"versions"`
	Seed     uint64            `json:"seed"`
	Data     []dataset         `json:"data"`
	Gates    []gate            `json:"gates"`
	// Medians are those of each side over the rounds, figure by figure.
	Medians map[string]figures `json:"medians"`
	Notes   []string           `json:"notes,omitempty"`
	Rounds  []round            `json:"rounds"`
}

// dataset is a database that was made for the run.
type dataset struct {
	Name  string `json:"name"`
	Shape string `json:"shape"`
	// BackendBytes is the length of etcd's file, InUseBytes what of it is not free.
	BackendBytes int64 `json:"backend_bytes"`
	InUseBytes   int64 `json:"in-use_bytes"`
	Revision     int64 `json:"revision"`
	Objects      int   `json:"objects"`
	Puts         int   `json:"puts"`
	Deletes      int   `json:"deletes"`
	Leases       int   `json:"leases"`
	// Events came after it was filled, where a bench archives them.
	Events int64 `json:"events,omitempty"`
}

// round is one turn of every side.
type round struct {
	Round int `json:"round"`
	// Sides are in the order in which they ran.
	Sides []side `json:"sides"`
}

// side is one measured piece of a round.
type side struct {
	Side string `json:"side"`
	// Load is the machine's load average over the last minute when the side began.
	Load    float64 `json:"load"`
	Figures figures `json:"figures"`
}

// gate is a bound that a figure must keep.
type gate struct {
	What string `json:"what"`
	// Values are one for each round; Got is what counts of them.
	Values []float64 `json:"values"`
	Rule   string    `json:"rule"`
	Got    float64   `json:"got"`
	Most   float64   `json:"most"`
	Held   bool      `json:"held"`
}

func newReport(ctx context.Context, b bench, s settings, l *lab) (*report, error) {
	r := &report{
		Bench: b.name, Question: b.question, Command: "make bench NAME=" + b.name,
		Started: time.Now().UTC().Truncate(time.Second), Seed: s.seed, Commit: commit(ctx),
	}
	if len(os.Args) > 2 {
		r.Command = strings.Join(os.Args, " ")
	}
	var err error
	if r.Machine, err = thisMachine(l.dir); err != nil {
		return nil, err
	}
	if r.Versions, err = versions(ctx, l); err != nil {
		return nil, err
	}
	r.Before, err = loadAverages()
	return r, err
}

// add takes note of a side of a round, the first of which is 1.
func (r *report) add(number int, s side) {
	if len(r.Rounds) < number {
		r.Rounds = append(r.Rounds, round{Round: number})
	}
	last := &r.Rounds[number-1]
	last.Sides = append(last.Sides, s)
}

// values gives a figure of a side, one for each round that has it.
func (r *report) values(name, figure string) []float64 {
	var values []float64
	for _, round := range r.Rounds {
		for _, s := range round.Sides {
			if value, ok := s.Figures[figure]; ok && s.Side == name {
				values = append(values, value)
			}
		}
	}
	return values
}

// gateRatio bounds the median over the rounds of a figure of one side divided by that of another in the same round.
func (r *report) gateRatio(figure, over, under string, most float64) {
	a, b := r.values(over, figure), r.values(under, figure)
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	r.gate(fmt.Sprintf("%s of %q / %q", figure, over, under), "median", ratios, median(ratios), most)
}

// gateMost bounds a figure of a side in every round.
func (r *report) gateMost(figure, of string, most float64) {
	values := r.values(of, figure)
	r.gate(fmt.Sprintf("%s of %q", figure, of), "largest", values, slices.Max(values), most)
}

// gateMedian bounds the median over the rounds of a figure of one side.
func (r *report) gateMedian(figure, of string, most float64) {
	values := r.values(of, figure)
	r.gate(fmt.Sprintf("%s of %q", figure, of), "median", values, median(values), most)
}

func (r *report) gate(what, rule string, values []float64, got, most float64) {
	r.Gates = append(r.Gates, gate{What: what, Rule: rule, Values: values, Got: got, Most: most, Held: got <= most})
}

// held tells whether every gate is.
func (r *report) held() bool {
	return !slices.ContainsFunc(r.Gates, func(g gate) bool { return !g.Held })
}

// finish computes what the rounds say together.
func (r *report) finish() (err error) {
	r.Seconds = time.Since(r.Started).Round(time.Second).Seconds()
	r.Medians = map[string]figures{}
	for _, round := range r.Rounds {
		for _, s := range round.Sides {
			for figure := range s.Figures {
				if r.Medians[s.Side] == nil {
					r.Medians[s.Side] = figures{}
				}
				r.Medians[s.Side][figure] = median(r.values(s.Side, figure))
			}
		}
	}
	r.After, err = loadAverages()
	return err
}

// print shows people the medians and the gates.
func (r *report) print(w io.Writer) {
	sides := slices.Sorted(maps.Keys(r.Medians))
	names := map[string]bool{}
	for _, s := range sides {
		for figure := range r.Medians[s] {
			names[figure] = true
		}
	}
	fmt.Fprintf(w, "%s\n%s, %d cores, load %s before and %s after; medians of %d:\n", r.Question, r.Machine.CPU,
		r.Machine.Cores, r.Before, r.After, len(r.Rounds))
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "\t%s\t\n", strings.Join(sides, "\t"))
	for _, figure := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(table, "%s\t", figure)
		for _, s := range sides {
			text := ""
			if value, ok := r.Medians[s][figure]; ok {
				text = short(value)
			}
			fmt.Fprintf(table, "%s\t", text)
		}
		fmt.Fprintln(table)
	}
	table.Flush()
	for _, g := range r.Gates {
		word := "held  "
		if !g.Held {
			word = "MISSED"
		}
		fmt.Fprintf(w, "%s %s: %s, at most %s (%s of", word, g.What, short(g.Got), short(g.Most), g.Rule)
		for _, value := range g.Values {
			fmt.Fprintf(w, " %s", short(value))
		}
		fmt.Fprintln(w, ")")
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, note)
	}
}

// short writes a number for people.
func short(value float64) string {
	if value >= 1000 {
		return fmt.Sprintf("%.0f", value)
	}
	return fmt.Sprintf("%.3g", value)
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// median gives the middle one of the values, the mean of two when their number is even. It panics when there is none.
func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile gives the value below which a share q of the values lies, between two of them in proportion.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}
