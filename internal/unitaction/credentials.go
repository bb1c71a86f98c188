package unitaction

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/holdfast-project/holdfast/internal/action"
	"github.com/holdfast-project/holdfast/internal/config"
)

// CredentialsFile is where package-client-credentials leaves its archive.
const CredentialsFile = config.DefaultFiles + "/etcd_credentials.tar.gz"

const credentialsReadme = `Credentials of a client of this etcd cluster.

  ca.crt      the certificate authority of the cluster's client listeners
  client.crt  the client's certificate
  client.key  its private key: whoever holds it can read and change everything in the cluster

  export ETCDCTL_API=3 ETCDCTL_CACERT=ca.crt ETCDCTL_CERT=client.crt ETCDCTL_KEY=client.key
  export ETCDCTL_ENDPOINTS=%s
  etcdctl member list
`

type clientCredentials struct{ *Unit }

func (a *clientCredentials) Spec() action.Spec {
	return action.Spec{
		Name:        "package-client-credentials",
		Description: "Package the client certificate, its key and the CA into " + CredentialsFile + ", for scp.",
	}
}

// Run replaces the archive of an earlier run: a new one is complete under a temporary name before that.
func (a *clientCredentials) Run(_ context.Context, call *action.Call) error {
	files := []struct{ name, from string }{
		{"client.crt", a.Record.TLS.Cert}, {"client.key", a.Record.TLS.Key}, {"ca.crt", a.Record.TLS.CA},
	}
	contents := map[string][]byte{"README.txt": fmt.Appendf(nil, credentialsReadme, a.Record.ClientURLs[0])}
	names := []string{"README.txt"}
	for _, f := range files {
		data, err := os.ReadFile(f.from)
		if err != nil {
			return fmt.Errorf("read client credentials: %w", err)
		}
		contents[f.name], names = data, append(names, f.name)
	}
	packed, err := packCredentials(names, contents, time.Now())
	if err != nil {
		return err
	}
	return a.replaceFile(CredentialsFile, "."+call.TaskID+".part", packed)
}

// Recover removes what a run that was cut off left.
func (a *clientCredentials) Recover(_ context.Context, call *action.Call) (string, error) {
	relative, err := inRoot("path", path.Join(config.DefaultFiles, "."+call.TaskID+".part"))
	if err != nil {
		return "", err
	}
	return "", a.removeLeftover(relative)
}

func packCredentials(names []string, contents map[string][]byte, modified time.Time) ([]byte, error) {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	archive := tar.NewWriter(zipped)
	var failed error
	add := func(header tar.Header, content []byte) {
		header.ModTime, header.Size = modified.Truncate(time.Second), int64(len(content))
		failed = errors.Join(failed, archive.WriteHeader(&header))
		_, err := archive.Write(content)
		failed = errors.Join(failed, err)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "etcd_credentials/", Mode: 0o700}, nil)
	for _, name := range names {
		add(tar.Header{Typeflag: tar.TypeReg, Name: "etcd_credentials/" + name, Mode: 0o600}, contents[name])
	}
	if err := errors.Join(failed, archive.Close(), zipped.Close()); err != nil {
		return nil, fmt.Errorf("pack client credentials: %w", err)
	}
	return out.Bytes(), nil
}

// replaceFile writes data durably under a temporary name beside file and renames it into place. file is a path of the
// unit.
func (u *Unit) replaceFile(file, temporary string, data []byte) (err error) {
	relative, err := inRoot("path", file)
	if err != nil {
		return err
	}
	folder := path.Dir(relative)
	if err := u.makeFolder(folder); err != nil {
		return err
	}
	part := path.Join(folder, temporary)
	out, err := u.Root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %q: %w", file, err)
	}
	defer func() { err = errors.Join(err, u.removeLeftover(part)) }()
	_, err = out.Write(data)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("write %q: %w", file, err)
	}
	if err := u.Root.Rename(part, relative); err != nil {
		return fmt.Errorf("write %q: %w", file, err)
	}
	return u.syncFolder(folder)
}
