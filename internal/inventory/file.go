package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gopkg.in/yaml.v2"

	"github.com/holdfast-project/holdfast/internal/durable"
)

// File is the inventory on disk. Beside it are its lock, NAME.lock, and the counter of NextNumbers, a file "numbers".
type File struct{ path string }

// Open names the file; it need not exist: until the first change that is an empty model named DefaultModel.
func Open(path string) *File { return &File{path: path} }

// View reads the file. What it returns is the caller's own; to change the file is Update's.
func (f *File) View() (*Inventory, error) {
	inv, _, err := f.read()
	return inv, err
}

// Update lets change alter the inventory and writes the result, all under a lock: nobody else changes it meanwhile, and
// change must not call Update. If change returns an error, Update returns it as it is and the file stays. When Update
// returns nil the change is durable.
func (f *File) Update(change func(*Inventory) error) (err error) {
	release, err := f.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	inv, before, err := f.read()
	if err != nil {
		return err
	}
	if err := change(inv); err != nil {
		return err
	}
	if err := inv.Validate(); err != nil {
		return fmt.Errorf("change inventory: %w", err)
	}
	after, err := yaml.Marshal(inv)
	if err != nil {
		return fmt.Errorf("change inventory: %w", err)
	}
	if bytes.Equal(before, after) {
		return nil
	}
	return durable.WriteFile(f.path, after, 0o600)
}

// NextNumbers takes n numbers, counted from 1 and never given twice, and returns the first. Operations and tasks are
// numbered by them together.
func (f *File) NextNumbers(n int) (first int, err error) {
	if n < 1 {
		return 0, fmt.Errorf("take %d numbers: want at least one", n)
	}
	release, err := f.lock()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, release()) }()
	path := filepath.Join(filepath.Dir(f.path), "numbers")
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		first = 1
	case err != nil:
		return 0, fmt.Errorf("read the next number: %w", err)
	default:
		first, err = strconv.Atoi(strings.TrimSuffix(string(data), "\n"))
		if err != nil || first < 1 || first > math.MaxInt-n {
			return 0, fmt.Errorf("read the next number: %q holds %q, want a number from 1", path, data)
		}
	}
	// Written before they are used: a crash here loses numbers, but gives none twice.
	return first, durable.WriteFile(path, []byte(strconv.Itoa(first+n)+"\n"), 0o600)
}

// lock keeps others from changing anything. It waits; every holder is done in milliseconds or dead.
func (f *File) lock() (release func() error, err error) {
	if err := durable.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return nil, err
	}
	return durable.Lock(f.path + ".lock")
}

// read gives the inventory and the bytes it was read from, none when there is no file.
func (f *File) read() (*Inventory, []byte, error) {
	inv := &Inventory{Model: DefaultModel}
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return inv, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read inventory: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.SetStrict(true)
	// An empty file is refused too: taken for an empty inventory, it would make unit numbers start again.
	if err := decoder.Decode(inv); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("the file is empty")
		}
		return nil, nil, fmt.Errorf("read inventory %q: %w", f.path, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read inventory %q: want one YAML document, got more", f.path)
	}
	if err := inv.Validate(); err != nil {
		return nil, nil, fmt.Errorf("read inventory %q: %w", f.path, err)
	}
	return inv, data, nil
}
