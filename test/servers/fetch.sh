#!/bin/sh
# Puts the real object-storage servers that the tests run against into DIR/NAME-VERSION/NAME:
#   versitygw         S3, on a folder
#   fake-gcs-server   Google Cloud Storage, in memory
# Each is built from its Go module, pinned by the go.mod and go.sum in the folder of its name beside this file.
# usage: test/servers/fetch.sh DIR
# Each server is made in a temporary folder and published by one rename, so a folder that exists is whole.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# from_module NAME MODULE PACKAGE: builds PACKAGE at the version of MODULE that NAME/go.mod pins.
from_module() {
	version=$(sed -n "s|^.*$2 v\([^ ]*\).*\$|\1|p" "$here/$1/go.mod")
	[ -n "$version" ] || { echo "no version of $2 in $here/$1/go.mod" >&2; exit 1; }
	home=$dir/$1-$version
	[ ! -x "$home/$1" ] || return 0
	echo "$1 $version: building from its Go module (a minute or two the first time)"
	tmp=$(mktemp -d "$dir/.new.XXXXXX")
	chmod 755 "$tmp"
	CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off go -C "$here/$1" build \
		-trimpath -buildvcs=false -ldflags "-s -w -X main.Version=$version" -o "$tmp/$1" "$3"
	go version -m "$tmp/$1" | grep -q "$2[[:space:]]v$version[[:space:]]" # not all have a --version
	# Two runs at once may both get here; the second finds the first one's folder and that is fine.
	mv -T "$tmp" "$home" 2>/dev/null || [ -x "$home/$1" ]
	rm -rf "$tmp"
	tmp=
	echo "$1 $version: ready in $home"
}

from_module versitygw github.com/versity/versitygw github.com/versity/versitygw/cmd/versitygw
from_module fake-gcs-server github.com/fsouza/fake-gcs-server github.com/fsouza/fake-gcs-server
