package holdfast_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// This file holds the shape of the tree: which package may import which, and where foreign types and the process
// itself may be touched. ARCHITECTURE.md shows the same as a picture. A change of shape changes the tables here, in
// the same commit.

const modulePath = "github.com/holdfast-project/holdfast"

// levels are the packages of internal/ from the ground up: imports only point down.
var levels = [][]string{
	{"durable", "history", "retention", "seal", "unit"},
	{"action", "config", "inventory", "pki", "segment", "store"},
	{"api", "archivefile", "datadir", "etcdproc", "member", "service", "snapshot"},
	{"capture", "deploy", "foreign", "replay", "repository", "scratch"},
	{"archive", "backup", "chain", "coverage", "restore"},
	{"archiver", "mirror", "unitaction", "verify"},
	{"agent", "cli", "juju"},
}

// commandLevel is above them all: cmd/holdfast.
var commandLevel = len(levels)

// sameLevel are the imports within a level that are wanted: the command line starts the agent, and speaks Juju.
var sameLevel = map[string][]string{"cli": {"agent", "juju"}}

// homes tell which packages of internal/ may import a module or package and what is below it. The longest entry that
// fits an import counts. What is not named here may be imported anywhere.
var homes = map[string][]string{
	"go.etcd.io/etcd/client/v3":          {"member", "capture"},
	"go.etcd.io/etcd/server/v3":          {"etcdproc", "snapshot", "datadir", "restore", "verify"},
	"go.etcd.io/etcd/server/v3/embed":    {"etcdproc"},
	"go.etcd.io/etcd/server/v3/etcdmain": {"etcdproc"},
	"go.etcd.io/etcd/etcdutl/v3":         {"snapshot", "datadir", "restore"},
	"go.etcd.io/raft/v3":                 {"datadir", "restore"},
	"go.etcd.io/bbolt":                   {"snapshot", "datadir", "replay", "restore", "verify"},
	"github.com/spf13/cobra":             {"cli"},
	"filippo.io/age":                     {"seal"},
	"github.com/klauspost/compress/zstd": {"seal"},
	"github.com/minio/minio-go/v7":       {"store"},
	"golang.org/x/oauth2":                {"store"},
	"github.com/pkg/sftp":                {"store"},
	"golang.org/x/crypto/ssh":            {"store"},
	"github.com/Azure":                   {"store"},
	"k8s.io":                             {},
}

// processCalls are calls that touch the whole process, by import path and name, and who may make them.
var processCalls = []struct {
	what     string
	calls    map[string][]string
	packages []string // of internal/, beside cmd/holdfast: with all below them, or one below another as "store/sftp"
}{
	{"ends the process", map[string][]string{"os": {"Exit"}, "syscall": {"Exit"}, "log": {"Fatal", "Fatalf", "Fatalln"}}, nil},
	{"reads the environment", map[string][]string{"os": {"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, "syscall": {"Getenv", "Environ"}}, []string{"cli", "agent", "config", "store/sftp"}}, // the last for ssh's own SSH_AUTH_SOCK
}

// goPackage is what the rules need to know of a package; its fields are those of `go list -json`.
type goPackage struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string

	// calls are the functions of other packages that the code names, such as "os.Exit".
	calls []string
}

// place is where a package is in the tree.
type place struct {
	// name is the package of internal/ that it is or is inside of; "" outside of internal/.
	name string
	// path is that of the package below internal/, such as "store/sftp"; "" outside.
	path  string
	level int
	// test marks packages that are for tests: all below test/, and those of internal/ that testOnly names, with what is
	// below them.
	test bool
}

// testOnly tells by the name of a package whether it is for tests.
func testOnly(name string) bool { return strings.HasSuffix(name, "test") || name == "faultstore" }

// placeOf finds a package of this module in the table.
func placeOf(importPath string) (place, error) {
	rest := strings.TrimPrefix(strings.TrimPrefix(importPath, modulePath), "/")
	top, below, _ := strings.Cut(rest, "/")
	switch {
	case rest == "", top == "test":
		return place{test: true}, nil
	case rest == "cmd/holdfast":
		return place{level: commandLevel}, nil
	case top == "internal" && below != "":
		name, _, _ := strings.Cut(below, "/")
		if slices.ContainsFunc(strings.Split(below, "/"), testOnly) {
			return place{name: name, path: below, test: true}, nil
		}
		for level, names := range levels {
			if slices.Contains(names, name) {
				return place{name: name, path: below, level: level}, nil
			}
		}
	}
	return place{}, fmt.Errorf("%s has no level: give it one in the table, or a better home", rest)
}

// problems checks packages against every rule and says what is wrong, each with the reason.
func problems(packages []goPackage) []string {
	var found []string
	for _, p := range packages {
		at, err := placeOf(p.ImportPath)
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		short := strings.TrimPrefix(p.ImportPath, modulePath+"/")
		report := func(format string, args ...any) {
			found = append(found, short+": "+fmt.Sprintf(format, args...))
		}
		if len(p.GoFiles) > 0 && p.Doc == "" {
			report("has no package comment: say what it is, where in the flow, whether it is safe for concurrent use, what it does not promise")
		}
		if at.test {
			continue
		}
		for _, imported := range p.Imports {
			if reason := checkImport(at, imported); reason != "" {
				report("imports %s: %s", strings.TrimPrefix(imported, modulePath+"/"), reason)
			}
		}
		for _, call := range p.calls {
			if reason := checkCall(at, call); reason != "" {
				report("uses %s: %s", call, reason)
			}
		}
	}
	return found
}

// checkImport gives the reason why a package may not import another, or "".
func checkImport(from place, imported string) string {
	if imported != modulePath && !strings.HasPrefix(imported, modulePath+"/") {
		return checkForeign(from, imported)
	}
	to, err := placeOf(imported)
	switch {
	case err != nil:
		return err.Error()
	case to.test:
		return "it is for tests only and would become part of the binary"
	case to.name != "" && to.name == from.name: // parts of one package
		return ""
	case to.level > from.level:
		return fmt.Sprintf("it is on level %d and this on %d; imports only point down, so declare a small interface here that it meets", to.level, from.level)
	case to.level == from.level && !slices.Contains(sameLevel[from.name], to.name):
		return fmt.Sprintf("both are on level %d; a flow that needs another declares a small interface, and agent or cli joins them", to.level)
	}
	return ""
}

// checkForeign holds foreign types to their homes.
func checkForeign(from place, imported string) string {
	home := ""
	for prefix := range homes {
		if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && len(prefix) > len(home) {
			home = prefix
		}
	}
	if home == "" || slices.Contains(homes[home], from.name) {
		return ""
	}
	if len(homes[home]) == 0 {
		return "only tests use it so far"
	}
	return fmt.Sprintf("foreign types stay home, here in %s; outside only our own values travel", strings.Join(homes[home], ", "))
}

// checkCall holds calls that touch the whole process to the few places for them.
func checkCall(from place, call string) string {
	for _, rule := range processCalls {
		dot := strings.LastIndex(call, ".")
		if !slices.Contains(rule.calls[call[:dot]], call[dot+1:]) {
			continue
		}
		if from.level == commandLevel || slices.Contains(rule.packages, from.name) || slices.Contains(rule.packages, from.path) {
			continue
		}
		allowed := strings.Join(append([]string{"cmd/holdfast"}, rule.packages...), ", ")
		return fmt.Sprintf("that %s, which only %s may; return an error, or take what is needed as a parameter", rule.what, allowed)
	}
	return ""
}

// list reads all packages of this module, for the system that the tests run on.
func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, name := range p.GoFiles {
			source, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			calls, err := callsOf(name, source)
			if err != nil {
				t.Fatal(err)
			}
			p.calls = append(p.calls, calls...)
		}
		packages = append(packages, p)
	}
	return packages
}

// callsOf names every use of another package's function in a file, each once, under whatever name it is imported.
func callsOf(name string, source []byte) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	imported := map[string]string{}
	for _, spec := range file.Imports {
		importPath, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		local := path.Base(importPath)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		imported[local] = importPath
	}
	calls := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && imported[x.Name] != "" {
				calls[imported[x.Name]+"."+selector.Sel.Name] = true
			}
		}
		return true
	})
	return slices.Sorted(maps.Keys(calls)), nil
}

func TestShapeOfTheTree(t *testing.T) {
	packages := list(t)
	if len(packages) < 5 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, problem := range problems(packages) {
		t.Error(problem)
	}
}

func TestLicence(t *testing.T) {
	text, err := os.ReadFile("LICENSE")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Apache License", "Version 2.0, January 2004", "Copyright 2026 The Holdfast Authors"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("LICENSE lacks %q", want)
		}
	}
}

// TestBadTreeIsSeen gives the rules a tree in which one thing is wrong and wants just that said.
func TestBadTreeIsSeen(t *testing.T) {
	const ours = modulePath + "/internal/"
	for name, tt := range map[string]struct {
		from    string
		imports []string
		calls   []string
		want    string // "" means that nothing is wrong
	}{
		"down":                       {from: ours + "restore", imports: []string{ours + "history", ours + "datadir", "fmt"}},
		"up":                         {from: ours + "history", imports: []string{ours + "action"}, want: "imports only point down"},
		"sideways":                   {from: ours + "member", imports: []string{ours + "snapshot"}, want: "both are on level 2"},
		"cli starts agent":           {from: ours + "cli", imports: []string{ours + "agent", ours + "juju"}},
		"agent knows cli":            {from: ours + "agent", imports: []string{ours + "cli"}, want: "both are on level"},
		"juju knows agent":           {from: ours + "juju", imports: []string{ours + "agent"}, want: "both are on level"},
		"inside one package":         {from: ours + "agent/journal", imports: []string{ours + "agent/lock"}},
		"part goes up":               {from: ours + "history/text", imports: []string{ours + "cli"}, want: "imports only point down"},
		"command":                    {from: modulePath + "/cmd/holdfast", imports: []string{ours + "cli", ours + "history"}},
		"command imported":           {from: ours + "cli", imports: []string{modulePath + "/cmd/holdfast"}, want: "imports only point down"},
		"unknown package":            {from: ours + "utils", want: "internal/utils has no level"},
		"unknown package imported":   {from: ours + "cli", imports: []string{ours + "utils"}, want: "internal/utils has no level"},
		"second command":             {from: modulePath + "/cmd/other", want: "cmd/other has no level"},
		"test package in the binary": {from: ours + "agent", imports: []string{ours + "etcdtest"}, want: "for tests only"},
		"part of it":                 {from: ours + "agent", imports: []string{ours + "etcdtest/kubeload"}, want: "for tests only"},
		"test package below":         {from: ours + "store/s3", imports: []string{ours + "store/storetest"}, want: "for tests only"},
		"faults in the binary":       {from: ours + "repository", imports: []string{ours + "store/faultstore"}, want: "for tests only"},
		"test program in the binary": {from: ours + "agent", imports: []string{modulePath + "/test/demo"}, want: "for tests only"},
		"test program":               {from: modulePath + "/test/demo", imports: []string{ours + "etcdtest", ours + "agent", "go.etcd.io/etcd/client/v3"}, calls: []string{"os.Exit"}},
		"etcd client at home":        {from: ours + "member", imports: []string{"go.etcd.io/etcd/client/v3"}},
		"etcd client abroad":         {from: ours + "agent", imports: []string{"go.etcd.io/etcd/client/v3/concurrency"}, want: "here in member, capture"},
		"bbolt abroad":               {from: ours + "capture", imports: []string{"go.etcd.io/bbolt"}, want: "here in snapshot, datadir, replay, restore"},
		"etcd server storage":        {from: ours + "restore", imports: []string{"go.etcd.io/etcd/server/v3/storage/wal"}},
		"embed beside storage":       {from: ours + "restore", imports: []string{"go.etcd.io/etcd/server/v3/embed"}, want: "here in etcdproc"},
		"S3 client at home":          {from: ours + "store/s3", imports: []string{"github.com/minio/minio-go/v7/pkg/credentials"}},
		"Azure client at home":       {from: ours + "store/azure", imports: []string{"github.com/Azure/azure-sdk-for-go/sdk/azidentity"}},
		"Azure client abroad":        {from: ours + "cli", imports: []string{"github.com/Azure/azure-sdk-for-go/sdk/azcore"}, want: "here in store"},
		"S3 client abroad":           {from: ours + "repository", imports: []string{"github.com/minio/minio-go/v7"}, want: "here in store"},
		"Google's tokens abroad":     {from: ours + "cli", imports: []string{"golang.org/x/oauth2/google"}, want: "here in store"},
		"SFTP client at home":        {from: ours + "store/sftp", imports: []string{"github.com/pkg/sftp", "golang.org/x/crypto/ssh/agent"}},
		"SFTP client abroad":         {from: ours + "repository", imports: []string{"golang.org/x/crypto/ssh"}, want: "here in store"},
		"name that only begins so":   {from: ours + "agent", imports: []string{"go.etcd.io/bbolt-tools"}},
		"Kubernetes types":           {from: ours + "cli", imports: []string{"k8s.io/api/core/v1"}, want: "only tests use it"},
		"exit in main":               {from: modulePath + "/cmd/holdfast", calls: []string{"os.Exit"}},
		"exit elsewhere":             {from: ours + "cli", calls: []string{"os.Exit"}, want: "that ends the process"},
		"fatal log":                  {from: ours + "etcdproc", calls: []string{"log.Fatalf"}, want: "that ends the process"},
		"environment at home":        {from: ours + "config", calls: []string{"os.LookupEnv"}},
		"environment elsewhere":      {from: ours + "service", calls: []string{"os.Environ"}, want: "that reads the environment, which only cmd/holdfast, cli, agent, config, store/sftp may"},
		"environment of ssh":         {from: ours + "store/sftp", calls: []string{"os.Getenv"}},
		"environment beside it":      {from: ours + "store/s3", calls: []string{"os.Getenv"}, want: "that reads the environment"},
		"environment in main":        {from: modulePath + "/cmd/holdfast", calls: []string{"os.Getenv"}},
		"harmless call":              {from: ours + "history", calls: []string{"os.Open", "os.Exiting"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := problems([]goPackage{{ImportPath: tt.from, Doc: "Package x.", GoFiles: []string{"x.go"}, Imports: tt.imports, calls: tt.calls}})
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("want nothing, got %q", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("want one line with %q, got %q", tt.want, got)
			}
		})
	}
	undocumented := []goPackage{{ImportPath: ours + "history", GoFiles: []string{"x.go"}}, {ImportPath: modulePath}}
	if got := problems(undocumented); len(got) != 1 || !strings.Contains(got[0], "history: has no package comment") {
		t.Errorf("want one missing comment, got %q", got)
	}
}

func TestCallsAreFound(t *testing.T) {
	calls, err := callsOf("x.go", []byte(`package x
import system "os"
import "path/filepath"
var read = system.Getenv
func f() { if true { defer system.Exit(filepath.Clean("a") == "") }; var t struct{ os int }; _ = t.os }`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"os.Exit", "os.Getenv", "path/filepath.Clean"}; !slices.Equal(calls, want) {
		t.Errorf("want %q, got %q", want, calls)
	}
}
