#!/bin/sh
# Puts the real object-storage servers that the tests run against into DIR/NAME-VERSION/NAME:
#   versitygw         S3, on a folder
#   fake-gcs-server   Google Cloud Storage, in memory
#   azurite           Azure Blob Storage, run by node; it has no binary: its script is node_modules/azurite/dist/src/blob/main.js
# Each is pinned beside this file in the folder of its name: the first two by the go.mod and go.sum there, from which they are
# built, the last by the package-lock.json, from npm.
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

# from_npm NAME SCRIPT: installs NAME at the version that NAME/package.json pins, and all below it as its lock says. No
# package runs a script of its own meanwhile. SCRIPT --version must then name the version.
from_npm() {
	version=$(sed -n "s|^.*\"$1\": \"\([0-9.]*\)\".*\$|\1|p" "$here/$1/package.json")
	[ -n "$version" ] || { echo "no version of $1 in $here/$1/package.json" >&2; exit 1; }
	home=$dir/$1-$version
	[ ! -f "$home/$2" ] || return 0
	for program in node npm; do
		command -v $program >/dev/null || { echo "$1 needs $program, which is missing: run make packages" >&2; exit 1; }
	done
	echo "$1 $version: installing from npm"
	tmp=$(mktemp -d "$dir/.new.XXXXXX")
	chmod 755 "$tmp"
	cp "$here/$1/package.json" "$here/$1/package-lock.json" "$tmp"
	(cd "$tmp" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error)
	node "$tmp/$2" --version | grep -q -F "$version"
	mv -T "$tmp" "$home" 2>/dev/null || [ -f "$home/$2" ]
	rm -rf "$tmp"
	tmp=
	echo "$1 $version: ready in $home"
}

from_module versitygw github.com/versity/versitygw github.com/versity/versitygw/cmd/versitygw
from_module fake-gcs-server github.com/fsouza/fake-gcs-server github.com/fsouza/fake-gcs-server
from_npm azurite node_modules/azurite/dist/src/blob/main.js
