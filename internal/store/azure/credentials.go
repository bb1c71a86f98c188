package azure

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/network"
)

// The variables that Azure's own tools read.
const (
	envAccount    = "AZURE_STORAGE_ACCOUNT"
	envKey        = "AZURE_STORAGE_KEY"
	envSAS        = "AZURE_STORAGE_SAS_TOKEN"
	envConnection = "AZURE_STORAGE_CONNECTION_STRING"
)

// Credentials say who asks. What is given here is used as it is, an account key, a SAS token or a file. Without, it is looked
// for where Azure's own tools look: the variables AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY and AZURE_STORAGE_SAS_TOKEN,
// in this order, when the options say how to read them; then what azidentity finds, such as the identity of the machine or
// pod. Nobody asks without credentials.
type Credentials struct {
	AccountKey, SASToken string
	// File holds a connection string, an account key or a SAS token, and nothing else. New reads it, once. One of this user
	// that others can read is refused.
	File string
	// Getenv reads a variable of the environment, as os.Getenv does. With nil none of those above are looked at.
	Getenv func(name string) string
}

// String shows nothing secret.
func (c Credentials) String() string {
	switch {
	case c.AccountKey != "":
		return "given account key"
	case c.SASToken != "":
		return "given SAS token"
	case c.File != "":
		return fmt.Sprintf("file %q", c.File)
	}
	return "those of Azure's tools"
}

// GoString shows nothing secret.
func (c Credentials) GoString() string { return c.String() }

// identity is who asks, and where.
type identity struct {
	account, endpoint string
	key, sas          string // when both are "", azidentity is asked
}

// find looks for credentials and for what is said with them. An address names an account, and credentials of another one
// are not taken for it.
func find(o Options) (identity, error) {
	env := o.Credentials.Getenv
	if env == nil {
		env = func(string) string { return "" }
	}
	who := identity{account: o.Account, endpoint: o.Endpoint, key: o.Credentials.AccountKey, sas: o.Credentials.SASToken}
	given := who.key != "" || who.sas != ""
	switch connection := env(envConnection); {
	case given:
	case o.Credentials.File != "":
		if err := who.readFile(o.Credentials.File); err != nil {
			return who, fmt.Errorf("read credentials: %w", err)
		}
	case connection != "":
		if err := who.readConnection(connection); err != nil {
			return who, fmt.Errorf("%s: %w", envConnection, err)
		}
	default:
		if who.key = env(envKey); who.key == "" {
			who.sas = env(envSAS)
		}
		account := env(envAccount)
		if who.key+who.sas != "" && account != "" && who.account != "" && account != who.account {
			return who, fmt.Errorf("the credentials in the environment are for account %q (%s), not for %q", account, envAccount, who.account)
		}
	}
	if who.account == "" {
		who.account = env(envAccount)
	}
	switch {
	case who.account != "" && !accountName.MatchString(who.account):
		return who, errors.New("the account of the credentials is not 3 to 24 lower-case letters and digits")
	case who.account == "" && (who.endpoint == "" || who.key != ""):
		return who, fmt.Errorf("no account: neither the options nor %s name it", envAccount)
	case who.endpoint == "":
		who.endpoint = "https://" + who.account + ".blob.core.windows.net"
	}
	return who, nil
}

// mostFile bounds a file of credentials, in bytes: a connection string takes some hundred.
const mostFile = 64 << 10

// readFile reads a file of credentials, whatever of the three it holds. Its errors do not repeat it.
func (who *identity) readFile(name string) error {
	opened, err := os.Open(name)
	if err != nil {
		return err
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return err
	}
	owner, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular() || info.Size() > mostFile:
		return fmt.Errorf("%q is no file of credentials", name)
	case info.Mode().Perm()&0o077 != 0 && (!known || int(owner.Uid) == os.Getuid()): // that of somebody else was made readable on purpose
		return fmt.Errorf("%q has mode %#o, so that others may read it; run: chmod 600 %[1]q", name, info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(opened, mostFile))
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(content))
	key, err := base64.StdEncoding.DecodeString(text)
	switch {
	case err == nil && len(key) > 0:
		who.key = text
	case strings.Contains(text, ";"):
		if err := who.readConnection(text); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	case strings.Contains(text, "sig="):
		who.sas = text
	default:
		return fmt.Errorf("%q holds no connection string, account key or SAS token", name)
	}
	return nil
}

// readConnection reads a connection string. Its errors do not repeat it.
func (who *identity) readConnection(text string) error {
	fields := map[string]string{}
	for field := range strings.SplitSeq(text, ";") {
		if name, value, ok := strings.Cut(strings.TrimSpace(field), "="); ok {
			fields[strings.ToLower(name)] = value
		} else if name != "" {
			return errors.New("a part of it is not NAME=VALUE")
		}
	}
	account := fields["accountname"]
	if account != "" && who.account != "" && account != who.account {
		return fmt.Errorf("it is for account %q, not for %q", account, who.account)
	}
	if who.account == "" {
		who.account = account
	}
	who.key, who.sas = fields["accountkey"], fields["sharedaccesssignature"]
	if who.key != "" {
		who.sas = ""
	}
	if who.key+who.sas == "" {
		return errors.New("it has no AccountKey and no SharedAccessSignature")
	}
	suffix, scheme := fields["endpointsuffix"], fields["defaultendpointsprotocol"]
	if scheme == "" {
		scheme = "https"
	}
	switch {
	case who.endpoint != "":
	case fields["blobendpoint"] != "":
		who.endpoint = fields["blobendpoint"]
	case suffix != "" && who.account != "":
		who.endpoint = scheme + "://" + who.account + ".blob." + suffix
	}
	return nil
}

// client makes the client of a container, and the keyring that keeps its secrets out of errors.
func (who identity) client(address *url.URL, t transport) (*container.Client, *keyring, error) {
	o := &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{
			Transport: t,
			// Repeating is ours: we know what may have become of a call whose answer was lost, and how long to wait.
			Retry: policy.RetryOptions{MaxRetries: -1},
		},
		ExpectContinueBehavior: container.ExpectContinueOptions{Mode: container.ExpectContinueModeOff},
	}
	keys := &keyring{}
	switch {
	case who.key != "":
		keys.secrets = []string{who.key}
		shared, err := container.NewSharedKeyCredential(who.account, who.key)
		if err != nil { // it would be no use to repeat a key
			return nil, nil, errors.New("the account key is not in base64")
		}
		client, err := container.NewClientWithSharedKeyCredential(address.String(), shared, o)
		return client, keys, err
	case who.sas != "":
		token := strings.TrimPrefix(who.sas, "?")
		fields, err := url.ParseQuery(token)
		signature := fields.Get("sig")
		if err != nil || signature == "" || strings.ContainsAny(token, " \r\n\t#") {
			return nil, nil, errors.New("the SAS token is none: want what follows the ? of a signed URL")
		}
		keys.secrets = []string{token, signature, url.QueryEscape(signature)}
		address.RawQuery = token
		client, err := container.NewClientWithNoCredential(address.String(), o)
		return client, keys, err
	}
	if address.Scheme != "https" {
		return nil, nil, errors.New("no account key and no SAS token, and other credentials are for https only")
	}
	found, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: azcore.ClientOptions{Transport: t}})
	if err != nil {
		return nil, nil, errors.New(keys.clean(err.Error()))
	}
	keys.source = found
	client, err := container.NewClient(address.String(), keys, o)
	return client, keys, err
}

// keyring knows what must not be shown, and asks for tokens when there are no other credentials. It is safe for concurrent
// use.
type keyring struct {
	secrets []string
	source  azcore.TokenCredential

	mu    sync.Mutex
	token string // the last one
}

// noToken is the error of a request that could not be signed.
type noToken struct{ error }

func (n noToken) Unwrap() error { return n.error }

// GetToken asks for a token, for the client, which keeps it while it is valid.
func (k *keyring) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	token, err := k.source.GetToken(ctx, o)
	k.mu.Lock()
	before := k.token
	if err == nil {
		k.token = token.Token
	}
	k.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return token, err
	}
	err = fmt.Errorf("find credentials: %s", k.clean(err.Error()))
	if before == "" { // else there was one before: the service that renews it may come back
		err = store.Mark(err, store.ErrDenied)
	}
	return token, noToken{err}
}

var (
	someURL = regexp.MustCompile(`[a-zA-Z]+://\S*`)
	// signs are of what signs a request: the header of a key or token, and the fields of a SAS token.
	signs = regexp.MustCompile(`(?i)\bsig(nature)?=|\bSharedKey(Lite)?\s|\bBearer\s|string to sign|client_secret|client_assertion`)
)

// clean makes one line of somebody's words, without secrets and URLs that it may repeat.
func (k *keyring) clean(text string) string {
	k.mu.Lock()
	token := k.token
	k.mu.Unlock()
	for _, secret := range append([]string{token}, k.secrets...) {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[key]")
		}
	}
	text = someURL.ReplaceAllString(text, "[URL]")
	if signs.MatchString(text) {
		return "[not shown: it repeats the request's signature]"
	}
	return network.Printable(text)
}
