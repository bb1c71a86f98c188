package snapshot

// Index says where the live records of a file are that a Scanner has found whole, so that Walk can read the same file
// again. It takes one bit for each page, and is never changed once Finish has returned.
type Index struct {
	pageSize int64
	pages    int64 // whole pages in the file
	size     int64 // of the file, with the trailer
	trailer  bool
	sum      [32]byte
	records  int64
	leases   int64
	leaves   bitmap         // first pages of the leaves of the key bucket
	inline   []inlineRecord // the key bucket, when it is so small that it is inside the root's page
}

type inlineRecord struct{ key, value []byte }

// content is how many bytes come before the trailer.
func (i *Index) content() int64 {
	if i.trailer {
		return i.size - trailerSize
	}
	return i.size
}
