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
	// Unclaimed counts data objects that no manifest names: of backups that were cut off, or are on their way.
	Unclaimed      int   `json:"unclaimed"`
	UnclaimedBytes int64 `json:"unclaimed-bytes"`
	// Problems are lines for people, each naming an object or a signer.
	Problems []string `json:"problems"`
}

// Check looks at everything that listings and manifests tell, of all clusters; it reads no data. What is wrong is in the
// result; the error is for what could not be looked at.
func (r *Repository) Check(ctx context.Context) (CheckResult, error) {
	result := CheckResult{Problems: []string{}}
	clusters, err := r.Clusters(ctx)
	if err != nil {
		return result, err
	}
	var all []Read
	for _, cluster := range clusters {
		reads, strange, err := r.Snapshots(ctx, cluster)
		if err != nil {
			return result, err
		}
		for _, name := range strange {
			result.Problems = append(result.Problems, fmt.Sprintf("object %q is among the manifests and is none", name))
		}
		if err := r.checkData(ctx, cluster, reads, &result); err != nil {
			return result, err
		}
		all = append(all, reads...)
	}
	result.Clusters, result.Snapshots = len(clusters), len(all)
	for _, broken := range CheckChains(all) {
		result.Problems = append(result.Problems, broken.String())
	}
	return result, nil
}

// checkData compares the data objects of a cluster with its manifests.
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
	return nil
}
