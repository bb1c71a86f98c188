package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where a run took place.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
	// Disk is the file system that all data and archives were on.
	Disk string `json:"disk"`
}

func thisMachine(dir string) (machine, error) {
	m := machine{Cores: runtime.NumCPU()}
	var err error
	if m.CPU, err = field("/proc/cpuinfo", "model name"); err != nil {
		return m, err
	}
	total, err := field("/proc/meminfo", "MemTotal")
	if err != nil {
		return m, err
	}
	if m.Memory, err = kilobytes(total); err != nil {
		return m, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("ask for the kernel: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
	m.Disk, err = fileSystem(dir)
	return m, err
}

// field gives the value of the first line "NAME : VALUE" of a file of /proc.
func field(path, name string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		key, value, found := strings.Cut(line, ":")
		if found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("read %q: it has no %q", path, name)
}

// kilobytes gives the bytes of "123 kB".
func kilobytes(text string) (int64, error) {
	kb, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	return kb << 10, err
}

// fileSystem describes the mount that a folder is on: source, type, options.
func fileSystem(dir string) (string, error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer mounts.Close()
	best, found := "", ""
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 {
			continue
		}
		point := strings.TrimSuffix(fields[1], "/") + "/"
		if strings.HasPrefix(dir+"/", point) && len(point) >= len(best) {
			best, found = point, strings.Join([]string{fields[0], fields[2], fields[3]}, " ")
		}
	}
	return found, lines.Err()
}

// loadAverages gives the machine's load over 1, 5 and 15 minutes.
func loadAverages() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	return strings.Join(strings.Fields(string(text))[:3], " "), nil
}

// load gives the load over the last minute.
func load() (float64, error) {
	text, err := loadAverages()
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(text, " ")
	return strconv.ParseFloat(first, 64)
}

// commit names the commit that is checked out, and says when the tree is not exactly that.
func commit(ctx context.Context) string {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(head))
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", ":!docs/bench").Output()
	if err != nil || len(changed) > 0 {
		name += " with changes"
	}
	return name
}

// versions names everything that takes part.
func versions(ctx context.Context, l *lab) (map[string]string, error) {
	info, err := buildinfo.ReadFile(l.program)
	if err != nil {
		return nil, fmt.Errorf("read what %q is made of: %w; run: make build", l.program, err)
	}
	all := map[string]string{
		"holdfast built with": info.GoVersion,
		"etcdctl, etcdutl":    l.etcd.Full,
	}
	for _, module := range info.Deps {
		switch module.Path {
		case "go.etcd.io/etcd/server/v3":
			all["etcd inside holdfast"] = strings.TrimPrefix(module.Version, "v")
		case "github.com/klauspost/pgzip", "github.com/klauspost/compress", "google.golang.org/grpc", "go.etcd.io/bbolt":
			all[module.Path] = module.Version
		}
	}
	for _, tool := range []string{l.program, "tar", "gzip", "sha256sum"} {
		text, err := exec.CommandContext(ctx, tool, "--version").Output()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("ask %q for its version", tool), err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		if tool == l.program {
			tool = "holdfast"
		}
		all[tool] = first
	}
	return all, nil
}
