package verify

import (
	"context"
	"errors"
	"io"

	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/segment"
)

// Segment reads a stored segment: at LevelCiphertext its bytes, at any deeper level all that is in it, down to whether each of
// its revisions has an event. problem is what is wrong with it, "" for nothing; the error is as that of Run. LevelListing is
// for Repository.CheckSegmentsListed, which looks at many at once.
func Segment(ctx context.Context, repo *repository.Repository, s repository.Segment, level repository.Level, o Options) (problem string, err error) {
	if level == repository.LevelCiphertext {
		err = repo.CheckSegmentStored(ctx, s, o.Observe)
	} else {
		err = readSegment(ctx, repo, s, o)
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil && damage(err) {
		return err.Error(), nil
	}
	return "", err
}

// Damage tells what an error of a repository says about the segment it is of, as Segment does.
func Damage(err error) bool { return err != nil && damage(err) }

func readSegment(ctx context.Context, repo *repository.Repository, s repository.Segment, o Options) error {
	found, err := scanSegment(ctx, repo, s, o)
	if err != nil {
		return err
	}
	return s.Holds(found)
}

// scanSegment reads a stored segment to its end.
func scanSegment(ctx context.Context, repo *repository.Repository, s repository.Segment, o Options) (found segment.Summary, err error) {
	content, err := repo.OpenSegment(ctx, s, o.Identities)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	var plain io.Reader = content
	if o.Observe != nil {
		plain = io.TeeReader(content, o.Observe)
	}
	reader, err := segment.NewReader(plain, s.Plain.Size)
	if err != nil {
		return found, err
	}
	for {
		if _, err := reader.Next(); errors.Is(err, io.EOF) {
			return reader.Summary(), nil
		} else if err != nil {
			return found, err
		}
	}
}
