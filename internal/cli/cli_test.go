package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/api"
	"github.com/holdfast-project/holdfast/internal/archive"
	"github.com/holdfast-project/holdfast/internal/archivefile"
	"github.com/holdfast-project/holdfast/internal/inventory"
	"github.com/holdfast-project/holdfast/internal/juju"
	"github.com/holdfast-project/holdfast/internal/repository"
	"github.com/holdfast-project/holdfast/internal/unit"
)

// invoke runs a command line in a home of its own, as a person without a terminal does.
func invoke(t *testing.T, program, home string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	code = Run(t.Context(), Environment{
		Args: args, Program: program, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &talk,
		Getenv: func(name string) string { return map[string]string{"HOLDFAST_HOME": home}[name] },
	})
	return code, out.String(), talk.String()
}

// TestCommandLines holds what needs no unit: usage, help, and an empty home.
func TestCommandLines(t *testing.T) {
	home := t.TempDir()
	directory := t.TempDir()
	notes, packed := filepath.Join(directory, "notes.txt"), filepath.Join(directory, "packed")
	for _, err := range []error{os.WriteFile(notes, []byte("no archive, whatever it is called"), 0o600), os.WriteFile(packed, []byte{0x1f, 0x8b}, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]struct {
		code           int
		stdout, stderr string // what each begins with; "" means nothing at all
	}{
		"":                        {0, "Keeps the state of a Kubernetes cluster", ""},
		"--version":               {0, "holdfast version ", ""},
		"help dance":              {2, "", `ERROR unknown command "dance" for "holdfast"`},
		"help deploy":             {0, "Deploy an etcd cluster", ""},
		"help":                    {0, "Keeps the state of a Kubernetes cluster", ""},
		"deploy etcd --units abc": {2, "", `ERROR invalid argument "abc" for "-n, --units" flag: want a whole number` + "\n"},
		"dance":                   {2, "", `ERROR unknown command "dance" for "holdfast"`},
		"stauts":                  {2, "", `ERROR unknown command "stauts" for "holdfast"` + "\nhint: did you mean holdfast start, or holdfast status?\n"},
		"help runaction":          {2, "", `ERROR unknown command "runaction" for "holdfast"` + "\nhint: did you mean holdfast run-action?\n"},
		"scp etcd/0: .":           {2, "", `ERROR "etcd/0:" names no file of the unit` + "\nhint: the path goes after the colon; "},
		"--colour":                {2, "", "ERROR unknown flag: --colour"},
		"status":                  {0, "", `Model "default" is empty.`},
		"status --format json":    {0, "{", ""},
		"status --format xml":     {2, "", "ERROR "},
		"status etcd":             {1, "", `ERROR application "etcd" not found`},
		"status a b":              {2, "", "ERROR "},
		"env etcd":                {1, "", `ERROR application "etcd" not found`},
		"env":                     {2, "", "ERROR want one APPLICATION, given 0 words"},
		"status a b c":            {2, "", "ERROR want [APPLICATION], given 3 words\nhint: holdfast status --help\n"},
		"remove-unit":             {2, "", "ERROR want UNIT..., given 0 words\n"},
		"export":                  {2, "", "ERROR want [SNAPSHOT] FILE, given 0 words\n"},
		"key add":                 {2, "", "ERROR want RECIPIENT..., given 0 words\nhint: holdfast key add --help\n"},
		"key enroll a b":          {2, "", "ERROR want [PUBLIC-KEY], given 2 words\nhint: holdfast key enroll --help\n"},
		"list extra":              {2, "", "ERROR list takes flags only, given [\"extra\"]\n"},
		"repo info extra":         {2, "", "ERROR info takes flags only, given [\"extra\"]\nhint: holdfast repo info --help\n"},
		"repo extra":              {2, "", `ERROR unknown command "extra" for "holdfast repo"`},
		"restore --data-dir d --bump 9223372036854775807":    {2, "", "ERROR --bump must be at most 2305843009213693951, given 9223372036854775807\n"},
		"restore --plan --latest=false --repo file:///no":    {2, "", "ERROR --latest=false names no moment: want --at, --revision or --snapshot"},
		"restore --plan --revision 0 --repo file:///no":      {2, "", "ERROR --revision must be above 0, given 0\n"},
		"restore --plan --revision -3 --repo file:///no":     {2, "", "ERROR --revision must be above 0, given -3\n"},
		"restore etcd/0 --data-dir d --repo file:///no":      {2, "", `ERROR "etcd/0" is a unit, and is restored without --data-dir, --plan or the name of a moment; they make a new data dir out of a repository` + "\nhint: restore UNIT takes an archive"},
		"restore --plan etcd/0 --repo file:///no":            {2, "", `ERROR "etcd/0" is a unit, and is restored without --data-dir, --plan or the name of a moment; they make a new data dir out of a repository` + "\nhint: restore UNIT takes an archive"},
		"restore etcd/0 snapshot=x --plan --repo file:///no": {2, "", `ERROR "etcd/0" is a unit, and is restored without --data-dir, --plan or the name of a moment; they make a new data dir out of a repository` + "\nhint: restore UNIT takes an archive"},
		"run-action":                            {2, "", "ERROR no unit specified"},
		"run-action etcd/0":                     {2, "", "ERROR no action specified"},
		"run-action etcd/0 snapshot":            {1, "", `ERROR unit "etcd/0" not found`},
		"run-action etcd/0 snapshot --wait 10s": {2, "", `ERROR argument "10s" must be of the form key...=value` + "\nhint: the time to wait should be --wait=10s\n"},
		"run-action etcd/0 snapshot --params " + directory + "/none": {1, "", "ERROR read parameters: "},
		"run etcd/0 snapshot --wait=5s --background":                 {2, "", "ERROR cannot specify both --wait and --background"},
		"snapshot":                          {2, "", "ERROR no unit specified"},
		"deploy":                            {2, "", "ERROR want etcd [NAME], given 0 words\n"},
		"deploy mysql":                      {2, "", `ERROR cannot deploy "mysql": only "etcd" can be deployed`},
		"deploy etcd --units 0":             {2, "", "ERROR --units must be at least 1, given 0"},
		"deploy etcd --resource snapshot":   {2, "", `ERROR resource "snapshot" must be of the form NAME=FILE`},
		"deploy etcd --resource etcd=/none": {1, "", `ERROR unknown resource "etcd": the only one is "snapshot"`},
		"deploy etcd --resource snapshot=" + directory: {1, "", `ERROR attach resource "snapshot": open "` + directory + `": not a regular file`},
		"deploy etcd --resource snapshot=" + notes:     {1, "", notAttachable(notes)},
		"attach-resource etcd snapshot=" + notes:       {1, "", notAttachable(notes)},
		"attach-resource etcd snapshot=" + packed:      {1, "", `ERROR attach resource "snapshot": "` + packed + `": the archive is cut off: it ends too early` + "\nhint: nothing was sent; holdfast verify " + packed + " is the same check\n"},
		"deploy etcd --etcd-binary /none":              {1, "", "ERROR find etcd server: "},
		"deploy etcd --etcd-binary " + directory:       {1, "", "ERROR find etcd server: "},
		"deploy etcd --etcd-binary /bin/true":          {1, "", `ERROR ask "/bin/true" for its version: it is no etcd server`},
		"add-unit etcd":                                {1, "", `ERROR application "etcd" not found`},
		"add-unit etcd -n 0":                           {2, "", "ERROR --num-units must be at least 1, given 0"},
		"remove-unit etcd/0":                           {1, "", `ERROR nothing was removed: unit "etcd/0" not found`},
		"remove-unit etcd":                             {2, "", `ERROR parse unit name "etcd"`},
		"destroy etcd --yes":                           {1, "", `ERROR application "etcd" not found`},
		"start":                                        {0, "", `Model "default" is empty.` + "\nhint: its home is " + home + "; holdfast deploy"},
		"scp a b":                                      {2, "", `ERROR one of "a" and "b" must be UNIT:PATH, and the other a path on this machine`},
		"scp etcd/0:a etcd/1:b":                        {2, "", "ERROR one of "},
		"scp etcd/0:a":                                 {2, "", "ERROR want SOURCE and DESTINATION, given 1 word\n"},
		"scp etcd/0:a " + directory:                    {1, "", `ERROR unit "etcd/0" not found`},
		"verify":                                       {2, "", "ERROR "},
		"verify /none":                                 {1, "", `ERROR verify "/none": `},
		"verify " + directory:                          {1, "", `ERROR verify "` + directory + `": open "` + directory + `": not a regular file`},
		"verify a --output xml":                        {2, "", `ERROR --output must be text or json, given "xml"`},
		"verify a b --sha256 00":                       {2, "", "ERROR --sha256 goes with one file, given 2"},
		"agent":                                        {2, "", "ERROR --config is required"},
		"agent --config /none":                         {1, "", "ERROR read agent configuration: "},
		"local-action snapshot":                        {2, "", "ERROR --config is required"},
		"operations":                                   {0, "", "no matching operations"},
		"operations --status dancing":                  {2, "", "ERROR "},
		"show-task 1":                                  {1, "", "ERROR "},
		"show-action-output x":                         {1, "", "ERROR "},
		"actions etcd":                                 {1, "", `ERROR application "etcd" not found`},
		"resources etcd":                               {1, "", `ERROR application "etcd" not found`},
	} {
		code, stdout, stderr := invoke(t, "holdfast", home, strings.Fields(line)...)
		if code != want.code {
			t.Errorf("%s: exit code %d, want %d: %s", line, code, want.code, stderr)
		}
		for stream, pair := range map[string][2]string{"output": {stdout, want.stdout}, "error": {stderr, want.stderr}} {
			if got, begin := pair[0], pair[1]; !strings.HasPrefix(got, begin) || begin == "" && got != "" {
				t.Errorf("%s: standard %s is\n%swant\n%s", line, stream, got, begin)
			}
		}
		if hint := regexp.MustCompile(`\nhint: holdfast ([-a-z]+ )?(--help|scp etcd/0:a \. .*)\n`).FindStringSubmatch(stderr); code == 2 && !strings.Contains(want.stderr, "\nhint: ") &&
			(hint == nil || hint[1] != "" && !strings.HasPrefix(line, strings.TrimSpace(hint[1]))) {
			t.Errorf("%s: no hint:\n%s", line, stderr)
		}
	}
	if left, err := os.ReadDir(home); err != nil || len(left) > 2 { // the inventory's lock, and whom it is of
		t.Errorf("the home holds %v: %v", left, err)
	}
}

func notAttachable(file string) string {
	return `ERROR attach resource "snapshot": "` + file + `" is neither a snapshot archive nor an etcd backend file` + "\nhint: nothing was sent; holdfast verify " + file + " is the same check\n"
}

func TestHelpWarns(t *testing.T) {
	for _, name := range []string{"snapshot", "restore"} {
		code, help, _ := invoke(t, "holdfast", t.TempDir(), name, "--help")
		for _, warning := range []string{volumesWarning, restoreWarning} {
			if code != 0 || !strings.Contains(help, "Warning: "+warning) {
				t.Errorf("%s --help does not warn %q:\n%s", name, warning, help)
			}
		}
	}
	for program, want := range map[string]string{"juju": "juju", "holdfast": "holdfast", "anything": "holdfast", "": "holdfast"} {
		_, help, _ := invoke(t, program, t.TempDir(), "run-action", "--help")
		if !strings.Contains(help, "  "+want+" run-action etcd/0 snapshot --wait\n") || !strings.Contains(help, "\nUsage:\n  "+want+" run-action ") {
			t.Errorf("called as %q it speaks of\n%s", program, help)
		}
	}
}

func TestExitCodesAndHints(t *testing.T) {
	home := t.TempDir()
	a := &app{Environment: Environment{Program: "holdfast", Getenv: func(string) string { return home }}}
	wrap := func(err error) error { return fmt.Errorf("a: %w", errors.Join(errors.New("b"), err)) }
	for name, tt := range map[string]struct {
		err  error
		code int
		hint string
	}{
		"any":          {errors.New("x"), 1, ""},
		"interrupted":  {wrap(errInterrupted), 130, ""},
		"cancelled":    {wrap(context.Canceled), 130, ""},
		"usage":        {wrap(usagef("x")), 2, "holdfast --help"},
		"Juju's usage": {wrap(&juju.UsageError{}), 2, "holdfast --help"},
		"locked":       {wrap(action.ErrLocked), 11, "the agent of this unit runs; ask it with run-action, or stop it first"},
		"not found":    {wrap(inventory.ErrNotFound), 1, "holdfast status lists the applications and units; there are none in " + home + ", the home"},
		"unreachable":  {wrap(api.ErrUnreachable), 1, "holdfast status shows which agents answer; holdfast start starts those of this machine that do not run, and says what helps the others"},
		"lost":         {wrap(&lostError{action.Task{ID: "x", Unit: unit.Name{Application: "etcd"}}, api.ErrUnreachable}), 1, "holdfast start etcd, then holdfast show-action-output x"},
		"late":         {juju.NewTimeoutError(juju.Juju3, []action.Task{{Number: 7, Status: action.Running}}), 1, "the action goes on: holdfast show-task 7, or holdfast cancel-task 7"},
		"no such home": {wrap(&fs.PathError{Op: "open", Path: home + "/inventory.yaml", Err: fs.ErrPermission}), 1, "the home is " + home + ", and must be a folder that you can write to; HOLDFAST_HOME names another one"},
		"above it":     {wrap(&fs.PathError{Op: "mkdir", Path: filepath.Dir(home), Err: syscall.ENOENT}), 1, "the home is " + home + ", and must be a folder that you can write to; HOLDFAST_HOME names another one"},
		"of a unit":    {wrap(&fs.PathError{Op: "open", Path: home + "/units/etcd-0", Err: fs.ErrPermission}), 1, ""},
		"not ours":     {wrap(&fs.PathError{Op: "open", Path: "/x", Err: fs.ErrPermission}), 1, ""},
		"refused":      {wrap(&api.StatusError{Code: 409}), 1, ""},
		"hinted":       {wrap(hinted{inventory.ErrNotFound, "try this"}), 1, "try this"},
	} {
		if code, hint := exitCode(tt.err), a.hint(tt.err); code != tt.code || hint != tt.hint {
			t.Errorf("%s: exit code %d, hint %q", name, code, hint)
		}
	}
}

func TestPlaces(t *testing.T) {
	etcd0 := juju.UnitRef{Unit: unit.Name{Application: "etcd"}}
	leader, err := juju.ParseUnitRef("etcd/leader")
	if err != nil {
		t.Fatal(err)
	}
	for word, want := range map[string]place{
		"file":                {path: "file"},
		"./etcd/0:x":          {path: "./etcd/0:x"},
		"a:b":                 {path: "a:b"},
		"etcd/0:":             {reference: etcd0, onUnit: true},
		"etcd/0:/a:b":         {reference: etcd0, onUnit: true, path: "/a:b"},
		"etcd/0:a b":          {reference: etcd0, onUnit: true, path: "a b"},
		"ubuntu@etcd/0:/x":    {reference: etcd0, onUnit: true, path: "/x"},
		"etcd/leader:/x":      {reference: leader, onUnit: true, path: "/x"},
		"etcd/00:/x":          {path: "etcd/00:/x"},
		"/etcd/0:/x":          {path: "/etcd/0:/x"},
		"ubuntu@example:/x":   {path: "ubuntu@example:/x"},
		"":                    {},
		"etcd/0":              {path: "etcd/0"},
		"x@y@etcd/0:/x":       {path: "x@y@etcd/0:/x"},
		"C:\\snapshot.tar.gz": {path: "C:\\snapshot.tar.gz"},
	} {
		if got := parsePlace(word); got != want {
			t.Errorf("%q is %+v, want %+v", word, got, want)
		}
	}
}

// TestPublish wants a copy whole under its name or not there at all.
func TestPublish(t *testing.T) {
	receive := func(to string, content io.Reader, overwrite bool) error {
		return publish(to, overwrite, func(out io.Writer) error {
			_, err := io.Copy(out, content)
			return err
		})
	}
	dir := t.TempDir()
	to := filepath.Join(dir, "file")
	cut := io.MultiReader(strings.NewReader("half"), iotestError{errors.New("cut")})
	if err := receive(to, cut, false); err == nil || err.Error() != "cut" {
		t.Errorf("a copy that is cut: %v", err)
	}
	for i, content := range []string{"first", "second"} {
		if err := receive(to, strings.NewReader(content), i > 0); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(to)
		if got, readErr := os.ReadFile(to); err != nil || readErr != nil || string(got) != content || info.Mode() != 0o600 {
			t.Errorf("it holds %q, mode %s", got, info.Mode())
		}
	}
	err := receive(to, strings.NewReader("third"), false)
	if err == nil || err.Error() != fmt.Sprintf("copy to %q: it exists", to) || (&app{}).hint(err) != "--overwrite replaces it" {
		t.Errorf("a copy onto a file: %v", err)
	}
	cut = io.MultiReader(strings.NewReader("half"), iotestError{errors.New("cut")})
	if err := receive(to, cut, true); err == nil {
		t.Error("a copy that is cut replaces a file")
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != "second" {
		t.Errorf("the file holds %q: %v", got, err)
	}
	if err := receive(filepath.Join(dir, "none", "file"), strings.NewReader("x"), false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("into a folder that is not there: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

type iotestError struct{ error }

func (e iotestError) Read([]byte) (int, error) { return 0, e.error }

func TestOpenRegular(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	for _, err := range []error{os.WriteFile(file, []byte("12345"), 0o600), os.Symlink("file", filepath.Join(dir, "link")), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for name, good := range map[string]bool{"file": true, "link": true, "pipe": false, "socket": false, ".": false, "none": false, "/dev/null": false} {
		path := name
		if !filepath.IsAbs(name) {
			path = filepath.Join(dir, name)
		}
		opened, size, err := openRegular(path)
		if (err == nil) != good || good && size != 5 {
			t.Errorf("%s: %d bytes, %v", name, size, err)
		}
		if err == nil {
			opened.Close()
		}
	}
}

func TestExpectedSum(t *testing.T) {
	dir := t.TempDir()
	file, sum := filepath.Join(dir, "a.tar.gz"), strings.Repeat("0A", 32)
	for name, tt := range map[string]struct {
		given, side, want, source string // the last is "" for an error
	}{
		"nothing said":  {"", "", "", "none to compare with"},
		"given":         {sum, "", strings.ToLower(sum), "as given"},
		"by the side":   {"", sum + "  a.tar.gz\n", strings.ToLower(sum), "as in a.tar.gz.sha256"},
		"given is more": {sum, strings.Repeat("1", 64) + "  a.tar.gz\n", strings.ToLower(sum), "as given"},
		"empty side":    {"", "\n", "", ""},
		"short side":    {"", "abc  a.tar.gz\n", "", ""},
	} {
		os.Remove(file + ".sha256")
		if tt.side != "" {
			if err := os.WriteFile(file+".sha256", []byte(tt.side), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, source, err := expectedSum(file, tt.given)
		if (err == nil) != (tt.source != "") || want != tt.want || source != tt.source {
			t.Errorf("%s: %q, %q, %v", name, want, source, err)
		}
	}
}

// TestTakeSide wants what the side file says where it is about the archive, and an error where it is about another.
func TestTakeSide(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	found := finding{File: "/srv/a.tar.gz", SHA256: sum, SHA256Check: noSum, EtcdVersion: "3.5", EtcdFrom: "term"}
	for name, tt := range map[string]struct {
		side       archivefile.SideFile
		check      string // of the sum, before
		want, from string // "" for an error
		checked    string
	}{
		"tells":           {archivefile.SideFile{SHA256: sum, EtcdVersion: "3.7.3"}, noSum, "3.7.3", "side file", "as in a.tar.gz.json"},
		"no version":      {archivefile.SideFile{SHA256: sum}, noSum, "3.5", "term", "as in a.tar.gz.json"},
		"a sum was given": {archivefile.SideFile{SHA256: sum, EtcdVersion: "3.7.3"}, "as given", "3.7.3", "side file", "as given"},
		"another archive": {archivefile.SideFile{SHA256: strings.Repeat("0b", 32), EtcdVersion: "3.7.3"}, "as given", "", "", ""},
	} {
		f := found
		f.SHA256Check = tt.check
		err := f.takeSide(tt.side)
		if tt.want == "" {
			if err == nil || err.Error() != `"a.tar.gz.json" is about another archive: one with sha256 `+tt.side.SHA256+", this one has "+sum {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || f.EtcdVersion != tt.want || f.EtcdFrom != tt.from || f.SHA256Check != tt.checked {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestVersionText(t *testing.T) {
	for want, f := range map[string]finding{
		"3.7.3 (as in a.tar.gz.json)":              {File: "/srv/a.tar.gz", EtcdVersion: "3.7.3", EtcdFrom: "side file"},
		"3.7.0 by its storage version":             {EtcdVersion: "3.7.0", EtcdFrom: "storage version"},
		"3.5, or a newer one in its first seconds": {EtcdVersion: "3.5", EtcdFrom: "term"},
		"3.5":          {Kind: "v2", EtcdVersion: "3.5", EtcdFrom: "term"},
		"3.4 or older": {EtcdVersion: "3.4", EtcdFrom: "no term"},
	} {
		if got := f.versionText(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestOneOfEach wants the singular where there is one, and what is lost said so that it can be understood.
func TestOneOfEach(t *testing.T) {
	var text strings.Builder
	if err := (finding{Keys: 1, Leases: 1}).write(&text, "text"); err != nil || !strings.Contains(text.String(), "  content    1 key, 1 lease, no Kubernetes objects\n") {
		t.Errorf("a file: %v\n%s", err, text.String())
	}
	text.Reset()
	if err := (merged{Cluster: "prod", Level: repository.SegmentHour, First: 7, Last: 7, Inputs: 1}).write(&text, "text"); err != nil || !strings.Contains(text.String(), ", revision 7: ") {
		t.Errorf("a merge: %v\n%s", err, text.String())
	}
	gap := archiveLineOf(archive.Event{Gap: &repository.Gap{First: 5, Last: 5, Reason: "compacted"}}, time.Now())
	if gap.Text != "GAP: lost revision 5: compacted" {
		t.Errorf("a gap: %q", gap.Text)
	}
	for _, line := range (momentPlan{}).lines() {
		if line[0] == "loses" && line[1] != "nothing that is stored; what the cluster wrote later was never stored" {
			t.Errorf("a plan loses %q", line[1])
		}
	}
}

// TestHoldings wants everything counted that goes with a unit, and each thing once.
func TestHoldings(t *testing.T) {
	folder := t.TempDir()
	data := filepath.Join(folder, "root", "var", "lib", "etcd")
	for _, name := range []string{
		"root/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz", "root/home/ubuntu/etcd-snapshots/etcd-snapshot-2018-09-26-18.04.02.tar.gz.json",
		"root/mnt/etcd-snapshot-2018-09-26-18.04.02.tar.gz", "root/home/ubuntu/etcd-data-2018-09-26-18.04.02.tar.gz",
		"root/var/lib/etcd/member/snap/db", "root/var/lib/etcd/member.before-restore-3d6a505e-20180926-180402/snap/db",
		"root/var/lib/etcd/member.before-restore-4d6a505e-20180926-180402/snap/db", "root/mnt/member.before-restore-3d6a505e-20180926-180402/copy",
		"state/etcd-snapshot-2018-09-26-18.04.02.tar.gz",
	} {
		path := filepath.Join(folder, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	var h holdings
	for range 2 { // as of two units
		if err := h.count(folder, data+"/"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.count(filepath.Join(folder, "none"), data); err != nil || h != (holdings{snapshots: 4, archives: 2, folders: 4}) {
		t.Errorf("%+v, %v", h, err)
	}
	one, two := []unit.Name{{Application: "etcd"}}, []unit.Name{{Application: "etcd"}, {Application: "etcd", Number: 1}}
	const replaced = " of data that restores had replaced"
	for want, tt := range map[string]struct {
		holdings
		names []unit.Name
	}{
		"1 unit (etcd/0), its etcd data, and 0 snapshot archives on it":                          {holdings{}, one},
		"2 units (etcd/0, etcd/1), their etcd data, and 1 snapshot archive on them":              {holdings{snapshots: 1}, two},
		"1 unit (etcd/0), its etcd data, 2 snapshot archives, 1 archive and 1 folder" + replaced: {holdings{2, 1, 1}, one},
		"1 unit (etcd/0), its etcd data, 0 snapshot archives and 2 archives" + replaced:          {holdings{archives: 2}, one},
		"2 units (etcd/0, etcd/1), their etcd data, 1 snapshot archive and 3 folders" + replaced: {holdings{snapshots: 1, folders: 3}, two},
	} {
		if got := tt.with(tt.names); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestFirstProblem(t *testing.T) {
	name := func(n int) unit.Name { return unit.Name{Application: "etcd", Number: n} }
	good := answer[api.Unit]{name: name(0), value: api.Unit{Etcd: api.Etcd{Members: 2, Healthy: 2}}}
	second := func(e api.Etcd, err error) answer[api.Unit] {
		return answer[api.Unit]{name: name(1), value: api.Unit{Etcd: e}, err: err}
	}
	for want, other := range map[string]answer[api.Unit]{
		"":                                     good,
		`unit "etcd/1": agent does not answer`: second(api.Etcd{}, fmt.Errorf("unit %q: %w", name(1), api.ErrUnreachable)),
		`unit "etcd/1": etcd does not run`:     second(api.Etcd{Error: "etcd does not run"}, nil),
		`unit "etcd/1" is a learner`:           second(api.Etcd{Learner: true, Members: 2, Healthy: 2}, nil),
		`unit "etcd/1" sees 1 of 2 members healthy`: second(api.Etcd{Members: 2, Healthy: 1}, nil),
		`unit "etcd/1" sees 3 of 3 members healthy`: second(api.Etcd{Members: 3, Healthy: 3}, nil),
	} {
		if err := firstProblem([]answer[api.Unit]{good, other}, 2); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestWords(t *testing.T) {
	for n, want := range map[int]string{0: "0 units", 1: "1 unit", 2: "2 units"} {
		if got := plural(n, "unit"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	names := []unit.Name{{Application: "etcd"}, {Application: "etcd", Number: 1}}
	if got := joinNames(names); got != "etcd/0, etcd/1" || joinNames(nil) != "" {
		t.Errorf("names %q", got)
	}
	if got, err := parseUnits([]string{"etcd/0", "etcd/1"}); err != nil || fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("units %v, %v", got, err)
	}
}

// TestParams wants text to stay text where the action takes text, and numbers to stay exact.
func TestParams(t *testing.T) {
	spec := action.Spec{Name: "x", Params: []action.Param{
		{Name: "text", Type: action.String}, {Name: "whole", Type: action.Integer}, {Name: "yes", Type: action.Boolean},
	}}
	for words, want := range map[string]string{
		"text=0 whole=0 yes=y":                `map[text:0 whole:0 yes:true]`,
		"text=3.10 whole=9223372036854775807": `map[text:3.10 whole:9223372036854775807]`,
		"text=yes":                            `map[text:yes]`,
		"text=":                               `map[text:]`,
		"whole=x":                             "error",
		"whole=9223372036854775808":           "error",
		"yes=3":                               "error",
		"other=1":                             "error",
	} {
		request, err := juju.ParseRequest(juju.Legacy, append([]string{"etcd/0", "x"}, strings.Fields(words)...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := paramsFor(spec, request, juju.ParamOptions{})
		if (err != nil) != (want == "error") || err == nil && fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v", words, got, err)
		}
	}
}

// TestProgress says nothing about what is over soon, one line about what lasts, and cleans up after itself.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := &progress{out: &out, what: "waiting for etcd", started: time.Now()}
		p.say("nothing yet")
		time.Sleep(quiet - time.Millisecond)
		p.say("nothing yet")
		p.done()
		if out.Len() != 0 {
			t.Errorf("a short wait says %q", out.String())
		}
		time.Sleep(time.Second)
		p.say(strings.Repeat("x", 200))
		p.done()
		line, cleared := strings.CutSuffix(out.String(), clearLine)
		if !strings.HasPrefix(line, clearLine+"waiting for etcd (2s): xxx") || !cleared || len(line) > 120 {
			t.Errorf("it says %q", out.String())
		}
	})
}
