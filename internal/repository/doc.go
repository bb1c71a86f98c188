// Package repository keeps snapshots and archives of clusters in object storage: which objects there are, what they are
// called, who signed them, and what must be checked before one is believed. DESIGN.md has the invariants.
//
// It sits between the flows that make and read snapshots and the store. A Repository is safe for concurrent use. An Upload
// belongs to one goroutine. Everything that comes from the store is hostile until it is checked here.
//
// Not promised: that the newest manifests of a writer are there. A reader who never saw them cannot miss them.
package repository
