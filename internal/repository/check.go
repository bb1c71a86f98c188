package repository

import (
	"context"
	"fmt"
)

// CheckResult is what Check found. docs/contracts/repository.md has the JSON form.
type CheckResult struct {
	Clusters  int `json:"clusters"`
	Snapshots int `json:"snapshots"`
	// Bytes is the size of all data objects that a manifest names.
	Bytes int64 `json:"bytes"`
	// Removed counts the snapshots that were pruned.
	Removed int `json:"removed"`
	// Unclaimed counts data objects that no manifest names: of backups that were cut off, or are on their way.
	Unclaimed      int   `json:"unclaimed"`
	UnclaimedBytes int64 `json:"unclaimed-bytes"`
	// Problems are lines for people, each naming an object or a signer.
	Problems []string `json:"problems"`
}

// Check looks at everything that listings and manifests tell, of all clusters; it reads no data. What is wrong is in the
// result; the error is for what could not be looked at. seen are the heads that the reader remembers, heads are those of now.
func (r *Repository) Check(ctx context.Context, seen Heads) (result CheckResult, heads Heads, err error) {
	result.Problems = []string{}
	clusters, err := r.Clusters(ctx)
	if err != nil {
		return result, nil, err
	}
	var all []Read
	for _, cluster := range clusters {
		reads, strange, err := r.Snapshots(ctx, cluster)
		if err != nil {
			return result, nil, err
		}
		for _, name := range strange {
			result.Problems = append(result.Problems, fmt.Sprintf("object %q is among the manifests and is none", name))
		}
		if err := r.checkData(ctx, cluster, reads, &result); err != nil {
			return result, nil, err
		}
		all = append(all, reads...)
	}
	result.Clusters, result.Snapshots = len(clusters), len(all)
	removals, err := r.Removals(ctx)
	if err != nil {
		return result, nil, err
	}
	removed := map[string]bool{} // by sha256: a removal that was cut off is told of again
	for _, removal := range removals {
		if removal.Err != nil {
			result.Problems = append(result.Problems, removal.Err.Error())
		}
		for _, gone := range removal.Removal.Snapshots {
			removed[gone.SHA256] = true
		}
	}
	result.Removed = len(removed)
	broken, heads := CheckChains(all, removals, seen)
	for _, broken := range broken {
		result.Problems = append(result.Problems, broken.String())
	}
	_, strange, err := r.Signers(ctx)
	for _, name := range strange {
		result.Problems = append(result.Problems, fmt.Sprintf("object %q is among the signers and is none", name))
	}
	return result, heads, err
}

// checkData compares the data objects of a cluster with its manifests, and looks at what else is said of its snapshots.
func (r *Repository) checkData(ctx context.Context, cluster string, reads []Read, result *CheckResult) error {
	sizes := map[string]int64{}
	for object, err := range r.store.List(ctx, clusterFolder+cluster+dataPart, "") {
		if err != nil {
			return fmt.Errorf("list data of %q: %w", cluster, err)
		}
		sizes[object.Name] = object.Size
	}
	for _, read := range reads {
		if read.Err != nil {
			result.Problems = append(result.Problems, read.Err.Error())
			for _, encrypted := range []bool{true, false} {
				delete(sizes, dataName(cluster, read.Point.ID, encrypted))
			}
			continue
		}
		o := read.Manifest.Object
		size, there := sizes[o.Name]
		delete(sizes, o.Name)
		result.Bytes += size
		// A listing may lag behind; only a look at the object itself says that it is not there.
		if !there || size != o.Size {
			if err := r.CheckListed(ctx, read.Manifest); err != nil {
				result.Problems = append(result.Problems, err.Error())
			}
		}
	}
	for _, size := range sizes {
		result.Unclaimed++
		result.UnclaimedBytes += size
	}
	verifications, strange, err := r.Verifications(ctx, cluster, nil)
	if err != nil {
		return err
	}
	for _, v := range verifications {
		if v.Err != nil {
			result.Problems = append(result.Problems, v.Err.Error())
		}
	}
	for _, name := range strange {
		result.Problems = append(result.Problems, fmt.Sprintf("object %q is among the verifications and is none", name))
	}
	pins, err := r.PinsOf(ctx, cluster)
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if pin.Err != nil {
			result.Problems = append(result.Problems, pin.Err.Error())
		}
	}
	return nil
}
