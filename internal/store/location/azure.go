package location

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/holdfast-project/holdfast/internal/store"
	"github.com/holdfast-project/holdfast/internal/store/azure"
)

// azureContainer is azblob://CONTAINER/PREFIX. Its fields are those of azure.Options.
//
// It says which account it is in, though the driver could take that of the credentials: an address is one place, and not
// another one with other variables.
type azureContainer struct {
	container, prefix string
	account, endpoint string
	caFile, keyFile   string
}

func (c *azureContainer) options() []option {
	return []option{
		{"account", &c.account, ofPlace}, {optEndpoint, &c.endpoint, ofPlace},
		{optCAFile, &c.caFile, ofFile}, {optCredentials, &c.keyFile, ofFile},
	}
}

func parseAzure(u *url.URL) (Location, error) {
	c := azureContainer{container: u.Host, prefix: strings.Trim(u.Path, "/")}
	if err := readOptions(u, formAzure, c.options()); err != nil {
		return nil, err
	}
	c.endpoint = strings.TrimSuffix(c.endpoint, "/")
	if err := c.driver(nil).Validate(); err != nil {
		return nil, err
	}
	if c.account == "" && c.endpoint == "" {
		return nil, errors.New("it does not say which storage account; want " + formAzure)
	}
	return c, nil
}

func (c azureContainer) driver(getenv func(string) string) azure.Options {
	return azure.Options{
		Account: c.account, Container: c.container, Prefix: c.prefix, Endpoint: c.endpoint, CAFile: c.caFile,
		Credentials: azure.Credentials{File: c.keyFile, Getenv: getenv},
	}
}

func (c azureContainer) String() string {
	return format(url.URL{Scheme: "azblob", Host: c.container}, c.prefix, c.options())
}

func (c azureContainer) Place() string {
	forget(c.options())
	return c.String()
}

func (c azureContainer) Open(_ context.Context, opts Options) (store.Store, error) {
	return opened(azure.New(c.driver(opts.Getenv)))
}
