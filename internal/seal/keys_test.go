package seal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Keys of nobody: made for this test.
const (
	someRecipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
	someSecret    = "AGE-SECRET-KEY-1N9JEPW6DWJ0ZQUDX63F5A03GX8QUW7PXDE39N8UYF82VZ9PC8UFS3M7XA9"
	someOwner     = "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z"
)

func TestParseRecipient(t *testing.T) {
	hybrid := newOwner(t, Hybrid).recipient
	for text, kind := range map[string]Kind{someRecipient: X25519, " " + someOwner + "\n": X25519, hybrid.String(): Hybrid} {
		r, err := ParseRecipient(text)
		if err != nil || r.String() != strings.TrimSpace(text) || r.Kind() != kind {
			t.Errorf("%.20q is %v of kind %q, %v", text, r, r.Kind(), err)
		}
	}
	r, err := ParseRecipient(someRecipient)
	if err != nil || r.KeyID() != "cf7e568231315068" || fmt.Sprint(r) != someRecipient {
		t.Errorf("key id is %s, %v", r.KeyID(), err)
	}
	for text, want := range map[string]string{
		"":                            "parse recipient: want age1… or age1pq1…",
		"ssh-ed25519 AAAA":            "parse recipient: want age1… or age1pq1…",
		"hunter2":                     "parse recipient: want age1… or age1pq1…",
		someSecret:                    "parse recipient: this is a secret key; its recipient, age1…, is in the comment above it in its file",
		strings.ToLower(someSecret):   "parse recipient: this is a secret key; its recipient, age1…, is in the comment above it in its file",
		"age1" + someSecret:           "parse recipient: this is a secret key; its recipient, age1…, is in the comment above it in its file",
		someRecipient[:61]:            `parse recipient "` + someRecipient[:61] + `": invalid checksum`,
		"age1yubikey1q2w3e":           `parse recipient "age1yubikey1q2w3e": separator '1' at invalid position: pos=11, len=17`,
		hybrid.String()[:1000]:        `parse recipient "` + hybrid.String()[:20] + `…": invalid checksum`,
		someRecipient + " " + "age1x": `parse recipient "` + someRecipient + ` age1x": separator '1' at invalid position: pos=66, len=68`,
	} {
		if r, err := ParseRecipient(text); fmt.Sprint(err) != want || r != (Recipient{}) {
			t.Errorf("%.20q: want %s\ngot %v", text, want, err)
		}
	}
}

func TestCheckRecipients(t *testing.T) {
	a, b, c := newOwner(t, X25519).recipient, newOwner(t, X25519).recipient, newOwner(t, Hybrid).recipient
	for want, list := range map[string][]Recipient{
		"<nil>": {a, b},
		"check recipients: there is none, so nobody could read what is encrypted":                                                                       {},
		"check recipients: " + `"` + a.String() + `"` + " is there twice":                                                                               {a, b, a},
		"check recipients: one of them is empty":                                                                                                        {a, {}},
		"check recipients: there are 1025, and age reads objects for 1024 at most":                                                                      make([]Recipient, 1025),
		"check recipients: X25519 and mlkem768x25519 keys do not go together: the object would be as weak as the weaker kind, so take keys of one kind": {a, c},
		"check recipients: mlkem768x25519 and X25519 keys do not go together: the object would be as weak as the weaker kind, so take keys of one kind": {c, a},
	} {
		if err := CheckRecipients(list); fmt.Sprint(err) != want {
			t.Errorf("want %s\ngot %v", want, err)
		}
	}
}

// TestMostRecipients reads what is sealed for as many as may be.
func TestMostRecipients(t *testing.T) {
	o := newOwner(t, X25519)
	to := []Recipient{o.recipient}
	for len(to) < maxRecipients {
		_, r, err := GenerateIdentity(X25519)
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, r)
	}
	read(t, sealed(t, text(100), Options{Recipients: to}), text(100), o.identity)
}

func TestReadIdentities(t *testing.T) {
	hybridText, hybrid, err := GenerateIdentity(Hybrid)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	file := write("two", "# mine\r\n\r\n  "+someSecret+" \r\n"+hybridText+"\n", 0o400)
	for _, file := range []string{file, link(t, file)} {
		identities, err := ReadIdentities(file)
		if err != nil || len(identities) != 2 || identities[0].Recipient().String() != someOwner || identities[1].Recipient().String() != hybrid.String() {
			t.Errorf("got %v, %v", identities, err)
		}
	}

	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	open := write("open to others", someSecret+"\n", 0o640)
	for file, want := range map[string]string{
		filepath.Join(dir, "none"):    "no such file or directory",
		dir:                           "it is no regular file",
		pipe:                          "it is no regular file",
		open:                          "others have rights to it, its mode is 0640: type: chmod 600 '" + open + "'",
		write("a", someSecret, 0o604): "its mode is 0604: type: chmod 600 " + dir + "/a",
		write("b", "", 0o600):         "it has no secret key",
		write("c", "# a\n\n", 0o600):  "it has no secret key",
		write("d", "# a\n"+someRecipient+"\n", 0o600):                                    "line 2 is no secret key as age-keygen makes them, AGE-SECRET-KEY-…",
		write("e", someSecret[:60]+"\n", 0o600):                                          "line 1 is a damaged secret key",
		write("f", hybridText[:len(hybridText)-5], 0o600):                                "line 3 is a damaged secret key",
		write("g", "age-encryption.org/v1\n-> scrypt", 0o600):                            "line 1 begins encrypted data: decrypt the file with age -d first",
		write("h", "-----BEGIN AGE ENCRYPTED FILE-----\n", 0o600):                        "line 1 begins encrypted data: decrypt the file with age -d first",
		write("i", "\x00\xff"+someSecret, 0o600):                                         "line 1 is no secret key",
		write("j", someSecret+"\n"+strings.ToLower(someSecret)+"\n", 0o600):              "line 2 is no secret key",
		write("k", strings.Repeat("x", maxIdentityFile+1), 0o600):                        "it has 1048577 bytes, a file of keys has 1048576 at most",
		write("l", strings.Repeat("x", maxIdentityFile), 0o600):                          "line 1 is no secret key",
		write("m", strings.Repeat(someSecret[:len(someSecret)-1]+"8", 1), 0o600):         "line 1 is a damaged secret key",
		write("n", "AGE-PLUGIN-YUBIKEY-1QQQQQQQ\n# "+strings.Repeat("y", 70_000), 0o600): "line 1 is no secret key",
	} {
		identities, err := ReadIdentities(file)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "read identities") || identities != nil {
			t.Errorf("want %s\ngot %v", want, err)
		}
		noSecret(t, fmt.Sprint(err))
	}
}

func link(t *testing.T, file string) string {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	return link
}

// noSecret wants no 8 characters of a secret key in a text.
func noSecret(t *testing.T, text string) {
	t.Helper()
	key := strings.TrimPrefix(someSecret, "AGE-SECRET-KEY-")
	for i := range len(key) - 8 {
		if strings.Contains(strings.ToUpper(text), key[i:i+8]) {
			t.Errorf("a secret key in %q", text)
			return
		}
	}
}

func TestIdentityIsNotPrinted(t *testing.T) {
	identity, err := parseIdentity(someSecret)
	if err != nil {
		t.Fatal(err)
	}
	want := "identity of " + identity.Recipient().KeyID()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10s"} {
		if got := fmt.Sprintf(verb, identity); got != want {
			t.Errorf("%s prints %s", verb, got)
		}
		if got := fmt.Sprintf(verb, []Identity{identity}); !strings.Contains(got, want) {
			t.Errorf("%s prints %s", verb, got)
		}
		if got := fmt.Sprintf(verb, struct{ I Identity }{identity}); !strings.Contains(got, want) {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}

func TestGenerateIdentity(t *testing.T) {
	for _, kind := range []Kind{X25519, Hybrid} {
		secret, r, err := GenerateIdentity(kind)
		lines := strings.Split(secret, "\n")
		if err != nil || r.Kind() != kind || len(lines) != 4 || lines[1] != "# public key: "+r.String() || lines[3] != "" {
			t.Fatalf("got %d lines and %v, %v", len(lines), r, err)
		}
		if identity, err := parseIdentity(lines[2]); err != nil || identity.Recipient().String() != r.String() {
			t.Errorf("got %v, %v", identity, err)
		}
	}
	if _, _, err := GenerateIdentity("rsa"); fmt.Sprint(err) != `generate identity: unknown kind "rsa", want "X25519" or "mlkem768x25519"` {
		t.Error(err)
	}
}
