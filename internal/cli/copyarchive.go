package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-project/holdfast/internal/mirror"
	"github.com/holdfast-project/holdfast/internal/repository"
)

// copiedArchive is what copy says of the archive of one timeline; docs/contracts/repository.md has the JSON form.
type copiedArchive struct {
	Kind     string              `json:"kind"` // "archive"
	Cluster  string              `json:"cluster"`
	Timeline repository.Timeline `json:"timeline"`
	// Segments and Bytes are what was copied, There and Pruned how many were there and were removed there on purpose.
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
	There    int   `json:"there"`
	Pruned   int   `json:"pruned"`
	Gaps     int   `json:"gaps"`
	Hashes   int   `json:"hashes"`
	// Newest is the last revision that is there.
	Newest int64 `json:"newest-revision"`
}

// archive copies the archive of a cluster, if it has one.
func (c *copyRun) archive(ctx context.Context, cluster string) error {
	if c.o.snapshotsOnly {
		points, _, err := c.options.From.SegmentPoints(ctx, cluster, "")
		if len(points) > 0 && !c.f.quiet {
			fmt.Fprintf(c.Stderr, "cluster %s: its archive, %s, is not copied: moments between snapshots are in this repository alone\n", cluster, plural(len(points), "segment"))
		}
		return err
	}
	show := c.transferProgress("copy the archive of "+cluster, c.f)
	defer show.close()
	copied, bad, err := mirror.Archive(ctx, c.writer, mirror.Options{
		From: c.options.From, To: c.options.To, Cluster: cluster, As: c.options.Cluster,
		Reseal: c.options.Reseal, Identities: c.options.Identities, RetainUntil: c.options.Retain.RetainUntil,
		// Those that were taken since the others were copied.
		Bases: func(ctx context.Context) error {
			reads, _, err := c.options.From.Snapshots(ctx, cluster)
			if err != nil {
				return err
			}
			return c.snapshots(ctx, cluster, reads)
		},
		Observe: show.counter,
	})
	show.close()
	c.bad = append(c.bad, bad...)
	for _, one := range copied {
		if writeErr := c.writeArchive(cluster, one); writeErr != nil {
			return writeErr
		}
	}
	return err
}

// writeArchive tells what was copied of one timeline.
func (c *copyRun) writeArchive(cluster string, one mirror.Copied) error {
	if c.f.output == "json" {
		return json.NewEncoder(c.Stdout).Encode(copiedArchive{
			Kind: "archive", Cluster: cluster, Timeline: one.Timeline, Segments: one.Segments, Bytes: one.Bytes, There: one.There, Pruned: one.Pruned,
			Gaps: one.Gaps, Hashes: one.Hashes, Newest: int64(one.Last),
		})
	}
	if !c.f.quiet {
		if one.There > 0 {
			fmt.Fprintf(c.Stderr, "cluster %s, timeline %s: %s there already\n", cluster, one.Timeline, plural(one.There, "segment"))
		}
		if one.Pruned > 0 {
			fmt.Fprintf(c.Stderr, "cluster %s, timeline %s: %s removed there on purpose, and not copied again\n", cluster, one.Timeline, plural(one.Pruned, "segment"))
		}
	}
	if one.Segments+one.Gaps+one.Hashes == 0 {
		return nil
	}
	_, err := fmt.Fprintf(c.Stdout, "archive of cluster %s, timeline %s is copied up to revision %d: %s, %s\n",
		cluster, one.Timeline, one.Last, plural(one.Segments, "segment"), humanize.Bytes(uint64(one.Bytes)))
	return err
}
