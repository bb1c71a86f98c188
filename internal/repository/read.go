package repository

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-project/holdfast/internal/store"
)

// readSmall reads a whole object of at most mostSigned bytes.
func readSmall(ctx context.Context, s store.Store, name string) ([]byte, error) {
	return readUpTo(ctx, s, name, mostSigned)
}

func readUpTo(ctx context.Context, s store.Store, name string, most int) (content []byte, err error) {
	body, err := s.Open(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	content, err = io.ReadAll(io.LimitReader(body, int64(most)+1))
	if err == nil && len(content) > most {
		err = fmt.Errorf("object %q is longer than the %d bytes that such an object may have", name, most)
	}
	return content, err
}

// parseSignerName reads the name of an object about a signer. The role of a revocation is "".
func parseSignerName(name string) (Fingerprint, Role, error) {
	fail := func() (Fingerprint, Role, error) {
		return "", "", fmt.Errorf("object %q is not named as a signer", name)
	}
	text, what, found := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(name, signersFolder), ".json"), ".")
	f, err := ParseFingerprint(text)
	if err != nil || !found {
		return fail()
	}
	if name == revocationName(f) || name == rejectionName(f) {
		return f, "", nil
	}
	role, err := ParseRole(what)
	if err != nil || signerName(f, role) != name {
		return fail()
	}
	return f, role, nil
}

// Clusters lists the clusters that the repository has something of, or the beginnings of it, by name.
func (r *Repository) Clusters(ctx context.Context) ([]string, error) {
	names, err := r.folders(ctx, clusterFolder)
	if err != nil {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	clusters := names[:0]
	for _, name := range names {
		if CheckCluster(name) != nil {
			continue
		}
		some, err := r.holdsSome(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("list clusters: %w", err)
		}
		if some {
			clusters = append(clusters, name)
		}
	}
	return clusters, nil
}

// holdsSome tells whether there is more of a cluster than the word of archivers that have stored nothing yet, of whom one may
// have had the wrong name.
func (r *Repository) holdsSome(ctx context.Context, cluster string) (bool, error) {
	folder := clusterFolder + cluster + "/"
	after := ""
	for {
		found := ""
		for object, err := range r.store.List(ctx, folder, after) {
			if err != nil {
				return false, err
			}
			found = object.Name
			break
		}
		if found == "" {
			return false, nil
		}
		_, timeline, rest, inArchive := inArchive(found, archivePart)
		if !inArchive || !strings.HasPrefix(rest, leasesFolder) {
			return true, nil
		}
		// Past all leases of the timeline: "0" is the character after "/".
		after = archiveFolder(cluster, timeline) + strings.TrimSuffix(leasesFolder, "/") + "0"
	}
}

// Points lists the snapshots of a cluster from names alone, oldest first. Strange are objects among the manifests that
// are not named as one.
func (r *Repository) Points(ctx context.Context, cluster string) (points []Point, strange []string, err error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, nil, err
	}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+manifestPart, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list snapshots of %q: %w", cluster, err)
		}
		point, err := parsePoint(object.Name)
		if err != nil {
			strange = append(strange, object.Name)
			continue
		}
		points = append(points, point)
	}
	sortPoints(points)
	return points, strange, nil
}

// NewestLive gives the manifest of the newest snapshot that was taken of a live cluster and can be believed; nil when there is
// none. One that is damaged or forged is told to passedOver, which may be nil, and passed over: it must not keep backups from
// being made. Those of a file, or whose manifest was lost, tell nothing of the life that the cluster is in.
func (r *Repository) NewestLive(ctx context.Context, cluster string, passedOver func(error)) (*Manifest, error) {
	points, _, err := r.Points(ctx, cluster)
	if err != nil {
		return nil, err
	}
	for _, point := range slices.Backward(points) {
		manifest, err := r.Manifest(ctx, point)
		switch {
		case err == nil && manifest.Source.ClusterID != "":
			return &manifest, nil
		case err == nil:
		case !errors.Is(err, ErrForged): // what only could not be reached may well be right, and then it decides
			return nil, fmt.Errorf("look at the last backup: %w", err)
		case passedOver != nil:
			passedOver(err)
		}
	}
	return nil, nil
}

// sortPoints puts points in the order of history. Within a timeline that is the order of revisions, whatever clocks said;
// timelines follow each other in the order of their first snapshots.
func sortPoints(points []Point) {
	begun := map[Timeline]ID{}
	for _, p := range points {
		if first, found := begun[p.Timeline]; !found || p.ID.compare(first) < 0 {
			begun[p.Timeline] = p.ID
		}
	}
	slices.SortFunc(points, func(a, b Point) int {
		return cmp.Or(begun[a.Timeline].compare(begun[b.Timeline]), cmp.Compare(a.Timeline, b.Timeline),
			cmp.Compare(a.Last, b.Last), a.ID.compare(b.ID))
	})
}

// Manifest fetches the manifest of a point and checks it: who signed it, and that it says what its name says.
func (r *Repository) Manifest(ctx context.Context, p Point) (Manifest, error) {
	m, _, err := r.manifest(ctx, p)
	return m, err
}

// manifest gives the sha256 of the object as well.
func (r *Repository) manifest(ctx context.Context, p Point) (m Manifest, sum string, err error) {
	name := p.manifestName()
	signed, err := r.readSigned(ctx, name)
	if err != nil {
		return m, "", fmt.Errorf("read manifest %q: %w", name, err)
	}
	if m, err = r.openManifest(ctx, signed, p); err != nil {
		return m, "", fmt.Errorf("manifest %q: %w", name, err)
	}
	return m, sumOf(signed), nil
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func (r *Repository) openManifest(ctx context.Context, signed []byte, p Point) (Manifest, error) {
	var m Manifest
	by, err := r.openSigned(ctx, signed, RoleBackup, manifestFormat, &m)
	if err != nil {
		return m, err
	}
	if m.Signer != by {
		return m, fmt.Errorf("%w: it says that it was signed by %s", ErrForged, m.Signer.Short())
	}
	return m, m.check(r.document.Repository, p)
}

// Read is one manifest that was fetched, or why it could not be believed.
type Read struct {
	Point    Point
	Manifest Manifest
	SHA256   string
	Err      error
}

// fetchesAtOnce is how many manifests are fetched at the same time. Stores answer in tens of milliseconds.
const fetchesAtOnce = 16

// Manifests fetches the manifests of points, in their order. The error is that of ctx; what is wrong with one manifest is
// in its Read.
func (r *Repository) Manifests(ctx context.Context, points []Point) ([]Read, error) {
	reads := make([]Read, len(points))
	var group errgroup.Group
	group.SetLimit(fetchesAtOnce)
	for i, point := range points {
		group.Go(func() error {
			reads[i].Point = point
			reads[i].Manifest, reads[i].SHA256, reads[i].Err = r.manifest(ctx, point)
			return nil
		})
	}
	_ = group.Wait() // no error comes out of it
	return reads, context.Cause(ctx)
}

// Snapshots lists the snapshots of a cluster with their manifests. Strange is as in Points.
func (r *Repository) Snapshots(ctx context.Context, cluster string) (reads []Read, strange []string, err error) {
	points, strange, err := r.Points(ctx, cluster)
	if err != nil {
		return nil, nil, err
	}
	reads, err = r.Manifests(ctx, points)
	return reads, strange, err
}

var (
	// ErrNoPoint means that no snapshot is named so.
	ErrNoPoint = errors.New("no such snapshot")
	// ErrAmbiguous means that several are.
	ErrAmbiguous = errors.New("names several snapshots")
)

// Find finds a snapshot of a cluster by what a person wrote: one of the forms of an ID, or "latest".
func (r *Repository) Find(ctx context.Context, cluster, text string) (Point, error) {
	points, _, err := r.Points(ctx, cluster)
	if err != nil {
		return Point{}, err
	}
	if text == "latest" && len(points) > 0 {
		return points[len(points)-1], nil
	}
	var found []Point
	for _, p := range points {
		if p.ID.matches(text) {
			found = append(found, p)
		}
	}
	switch {
	case len(found) == 0:
		return Point{}, fmt.Errorf("snapshot %q of cluster %q: %w", text, cluster, ErrNoPoint)
	case len(found) > 1:
		return Point{}, fmt.Errorf("snapshot %q of cluster %q: it %w: %s and %s", text, cluster, ErrAmbiguous, found[0].ID.Long(), found[1].ID.Long())
	}
	return found[0], nil
}
