#!/bin/sh
# Puts the real etcd servers that the tests run against into DIR/VERSION/{etcd,etcdctl,etcdutl}:
#   3.4            Debian's packages, unpacked and not installed: installing etcd-server would start a daemon
#   3.5, 3.6, 3.7  built from their Go modules, pinned by the go.mod and go.sum in the folders beside this file
# usage: test/etcd/fetch.sh DIR
# Each version is made in a temporary folder and published by one rename, so a folder that exists is whole.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

begin() {
	tmp=$(mktemp -d "$dir/.new.XXXXXX")
	chmod 755 "$tmp"
}

# publish VERSION: two runs at once may both get here; the second finds the first one's folder and that is fine.
publish() {
	mv -T "$tmp" "$dir/$1" 2>/dev/null || [ -x "$dir/$1/etcd" ]
	rm -rf "$tmp"
	tmp=
	echo "etcd $1: ready in $dir/$1"
}

# from_modules MINOR: the module go.etcd.io/etcd/server/v3 cannot be installed by version, as it has replace
# directives; inside a module of one's own those do not count.
from_modules() {
	version=$(sed -n 's|^.*go\.etcd\.io/etcd/server/v3 v\([0-9.]*\).*$|\1|p' "$here/v$1/go.mod")
	[ -n "$version" ] || { echo "no etcd server version in $here/v$1/go.mod" >&2; exit 1; }
	[ ! -x "$dir/$version/etcd" ] || return 0
	echo "etcd $version: building from its Go modules (a minute or two the first time)"
	begin
	for binary in etcd:server etcdctl:etcdctl etcdutl:etcdutl; do
		CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off go -C "$here/v$1" build \
			-trimpath -buildvcs=false -ldflags '-s -w' \
			-o "$tmp/${binary%%:*}" "go.etcd.io/etcd/${binary##*:}/v3"
	done
	"$tmp/etcd" --version | grep -q "^etcd Version: $version\$"
	publish "$version"
}

# from_debian MINOR: apt checks the packages against Debian's signatures.
from_debian() {
	version=$(cat "$here/v$1/VERSION")
	[ ! -x "$dir/$version/etcd" ] || return 0
	echo "etcd $version: unpacking Debian's etcd-server and etcd-client (nothing is installed)"
	begin
	if ! download "$version"; then
		if [ "$(id -u)" != 0 ]; then
			echo "etcd $version is not to be had from apt as it is; run as root: apt-get update" >&2
			exit 1
		fi
		echo "+ apt-get update"
		apt-get update -qq
		download "$version" || { echo "apt has no etcd $version: a Debian 12 (bookworm) package source is needed" >&2; exit 1; }
	fi
	for package in "$tmp"/*.deb; do dpkg -x "$package" "$tmp/x"; done
	mv "$tmp/x/usr/bin/etcd" "$tmp/x/usr/bin/etcdctl" "$tmp/"
	rm -rf "$tmp/x" "$tmp"/*.deb
	"$tmp/etcd" --version | grep -q "^etcd Version: $version\$"
	publish "$version"
}

# download VERSION: both packages at the Debian revision whose upstream version is VERSION. apt's own user may not
# write here, so apt is told not to try.
download() {
	for package in etcd-server etcd-client; do
		full=$(apt-cache madison "$package" | awk -v v="$1-" 'index($3, v) == 1 { print $3; exit }')
		[ -n "$full" ] || return 1
		(cd "$tmp" && apt-get download -qq -o APT::Sandbox::User=root "$package=$full") || return 1
	done
}

from_debian 3.4
for minor in 3.5 3.6 3.7; do from_modules "$minor"; done
