package sftp

import "time"

// LetTimePass has the connection of a store unused for long. What it gives is closed when the connection is gone.
func LetTimePass(s *Store) (gone <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		return nil
	}
	s.live.unused = time.Now().Add(-2 * idleTime)
	return s.live.gone
}
