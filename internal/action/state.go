package action

import "errors"

// add takes in a task that is on the disk. mu is held, or nobody else has the runner yet.
func (r *Runner) add(t Task) {
	e := &entry{task: t}
	r.order = append(r.order, e)
	r.byID[t.ID] = e
	if t.Key != "" {
		r.byKey[t.Key] = e
	}
	r.announce(e)
}

// announce wakes all who wait for a change. mu is held.
func (r *Runner) announce(e *entry) {
	r.version++
	e.version = r.version
	close(r.changed)
	r.changed = make(chan struct{})
}

// change is the one way from a state of a task to the next: alter gets a copy and tells whether it changed it; the
// result is written, then shown, and shown is called in the same moment. The task is given as it is on return.
func (r *Runner) change(id string, alter func(*Task) bool, shown func(*entry)) (Task, error) {
	r.commit.Lock()
	defer r.commit.Unlock()
	task, _, _, err := r.look(id)
	if err != nil || !alter(&task) {
		return task, err
	}
	task = task.fit()
	if err := r.journal.append(task); err != nil {
		return Task{}, err
	}
	r.show(task, shown)
	if task.Status.Terminal() {
		r.compact()
	}
	return task.clone(), nil
}

func (r *Runner) show(task Task, shown func(*entry)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.byID[task.ID]
	if task.Status.Terminal() {
		e.cancel = nil
	} else {
		// Lines may have come while the disk was busy.
		task.Log = e.task.Log
	}
	e.task = task
	if shown != nil {
		shown(e)
	}
	r.announce(e)
	if task.Status.Terminal() {
		r.forget()
	}
}

// forget drops the oldest finished tasks beyond what is kept. mu is held, or nobody else has the runner yet.
func (r *Runner) forget() {
	surplus := -r.limits.finished
	for _, e := range r.order {
		if e.task.Status.Terminal() {
			surplus++
		}
	}
	if surplus <= 0 {
		return
	}
	kept := make([]*entry, 0, len(r.order)-surplus)
	for _, e := range r.order {
		if surplus == 0 || !e.task.Status.Terminal() {
			kept = append(kept, e)
			continue
		}
		surplus--
		delete(r.byID, e.task.ID)
		if r.byKey[e.task.Key] == e {
			delete(r.byKey, e.task.Key)
		}
	}
	r.order = kept
}

// compact rewrites the journal when that is worth it. When it cannot, nothing is lost: the old file goes on, or the
// next change meets the error. commit is held, or nobody else has the runner yet.
func (r *Runner) compact() {
	r.mu.Lock()
	kept := len(r.order)
	r.mu.Unlock()
	if !r.journal.wasteful(kept, r.limits.slack) {
		return
	}
	if err := r.journal.compact(r.Tasks()); err != nil {
		r.logger.Warn("journal not compacted", "err", err)
	}
}

// log adds a line to the log of a task that is not finished. It is not written by itself.
func (r *Runner) log(id, line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, found := r.byID[id]
	if !found || e.task.Status.Terminal() {
		return // A goroutine that the action left behind. The record is closed.
	}
	at := later(r.stamp(), e.task.Started)
	log := append(e.task.Log, LogEntry{Time: at, Message: shorten(line, maxLogBytes)})
	e.task.Log = log[max(0, len(log)-maxLogLines):]
	r.announce(e)
}

// recordable tells whether writing the same again can help: the disk was full, not the file lost.
func recordable(err error) bool { return !errors.Is(err, errJournalBroken) }
