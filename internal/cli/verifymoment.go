package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/holdfast-project/holdfast/internal/coverage"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/verify"
)

// verifiedMoment is what verify says of one moment; docs/contracts/repository.md has the JSON form.
type verifiedMoment struct {
	Cluster  string              `json:"cluster"`
	Timeline repository.Timeline `json:"timeline"`
	Target   string              `json:"target"`
	Revision int64               `json:"revision"`
	TimeFrom string              `json:"time-from,omitempty"`
	TimeTo   string              `json:"time-to,omitempty"`
	Snapshot string              `json:"snapshot"`
	Segments int64               `json:"segments"`
	Level    repository.Level    `json:"level"`
	Result   string              `json:"result"`
	Error    string              `json:"error,omitempty"`
	// Compared tells that the hash at ComparedRevision was that of the live cluster; NotCompared is why it was not compared.
	Compared         bool               `json:"compared"`
	NotCompared      string             `json:"not-compared,omitempty"`
	ComparedRevision int64              `json:"compared-revision,omitempty"`
	Keys             int64              `json:"keys"`
	Hash             uint32             `json:"hash,omitempty"`
	Recorded         bool               `json:"recorded"`
	Seconds          float64            `json:"duration_s"`
	Resources        []verifiedResource `json:"resources,omitempty"`
}

// verifyMoment drills a moment.
func (a *app) verifyMoment(ctx context.Context, f *repoFlags, t *targetFlags, v verifyFlags, words []string) error {
	switch {
	case repository.Level(v.level) != repository.LevelDrill:
		return usagef("--at, --revision and --timeline need --level drill")
	case len(words) > 0:
		return usagef("--at and --revision exclude %q: they name a moment, and no snapshot", words[0])
	case t.at == "" && t.revision == 0:
		return usagef("--timeline needs --at or --revision")
	case v.sample != "":
		return usagef("--sample is for snapshots: want --at %s", atRandom)
	}
	t.random, t.drilled = t.at == atRandom, true
	r, err := a.resolve(ctx, f, t, "")
	if verify.Damage(err) {
		return findings{err}
	}
	if err != nil {
		return err
	}
	options, err := a.verifyOptions(r.repo, f, v, repository.LevelDrill)
	if err != nil {
		return err
	}
	line := slices.IndexFunc(r.timelines, func(line coverage.Timeline) bool { return line.ID == r.chain.Timeline })
	moment, err := verify.FindHash(ctx, r.repo, r.cluster, r.timelines[line], r.chain)
	if err != nil {
		return err
	}
	run := verification{app: a, flags: f, repo: r.repo, level: repository.LevelDrill}
	if !v.noRecord {
		run.openWriter(ctx)
	}
	show := a.transferProgress(fmt.Sprintf("drill revision %s", r.chain.Revision), f)
	defer show.close()
	options.Observe = show.counter(r.chain.Size() + moment.Compared.Size())
	result, err := verify.RunMoment(ctx, r.repo, moment, options)
	show.close()
	if err != nil {
		return err
	}
	one := r.verifiedMoment(result)
	if run.writer != nil {
		if _, err := r.repo.PutDrill(ctx, run.writer, result.Drill); err != nil {
			run.notRecorded = err
		}
		one.Recorded = run.notRecorded == nil
	}
	if err := one.write(a.Stdout, f.output); err != nil {
		return err
	}
	if run.notRecorded != nil && !f.quiet {
		fmt.Fprintf(a.Stderr, "the result is not recorded in the repository: %v\n", run.notRecorded)
	}
	if one.Error != "" {
		return findings{fmt.Errorf("revision %d of cluster %s: %s", one.Revision, one.Cluster, one.Error)}
	}
	return nil
}

// verifiedMoment puts what was found into words.
func (r *resolved) verifiedMoment(found verify.MomentResult) verifiedMoment {
	one := verifiedMoment{
		Cluster: r.cluster, Timeline: r.chain.Timeline, Target: r.asked, Revision: int64(found.Revision),
		Snapshot: found.Snapshot.Long(), Segments: found.Segments, Level: repository.LevelDrill, Error: found.Problem,
		Compared: found.Compared, NotCompared: found.Uncompared, Keys: found.Keys, Hash: found.Hash, Seconds: found.Seconds,
	}
	if !r.chain.Time.To.IsZero() {
		one.TimeTo = coverage.Stamp(r.chain.Time.To)
	}
	if !r.chain.Time.From.IsZero() {
		one.TimeFrom = coverage.Stamp(r.chain.Time.From)
	}
	for _, resource := range found.Resources {
		one.Resources = append(one.Resources, verifiedResource(resource))
	}
	switch {
	case !found.Passed:
		one.Result = foundBad
	case found.Compared:
		one.Result, one.ComparedRevision = foundProven, int64(found.Last)
	default:
		one.Result = foundNotCompared
	}
	return one
}

func (v verifiedMoment) write(w io.Writer, form string) error {
	if form == "json" {
		return json.NewEncoder(w).Encode(v)
	}
	result := v.Result
	if v.Compared {
		result += fmt.Sprintf(" by the hash of revision %d", v.ComparedRevision)
	}
	fmt.Fprintf(w, "%s  revision %d, %s  %s, %s\n", v.Cluster, v.Revision, momentText(v.TimeFrom, v.TimeTo), result, shortDuration(v.Seconds))
	fmt.Fprintf(w, "  from snapshot %s and %s\n", v.Snapshot, plural(int(v.Segments), "segment"))
	if v.NotCompared != "" {
		fmt.Fprintf(w, "  not compared: %s\n", v.NotCompared)
	}
	return writeResources(w, v.Keys, v.Resources)
}

// momentText says when something came about.
func momentText(from, to string) string {
	switch {
	case to == "":
		return "nobody knows of when"
	case from == "":
		return "not after " + to
	case from != to:
		return "between " + from + " and " + to
	}
	return to
}
