# make build   bin/holdfast
# make demo    a narrated run of the whole backups page; needs Go only, no root; KEEP=1 leaves its clusters for a look
# make test    everything that CI checks; installs Debian packages when they are missing, and says so
# make bench NAME=...   one bench of test/bench
# Smaller parts: check unit scripts fuzz, tools packages etcd servers, fmt, clean distclean.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := build

# A checkout need not be one that git trusts, and the binary is the same from every checkout.
export GOFLAGS := $(filter-out -buildvcs=%,$(shell go env GOFLAGS)) -buildvcs=false
# Settings of the caller's etcd tools must not reach tests.
unexport ETCDCTL_API ETCDCTL_ENDPOINTS ETCDCTL_CACERT ETCDCTL_CERT ETCDCTL_KEY

# PACKAGES are what the tests need from Debian: a C compiler for the race detector, strace, which kills a process at its
# Nth sync, rename or link, curl for the examples of the agent API, age and zstd as judges of what is stored, iproute2 and
# nftables for networks that break, and OpenSSH's server, of which each test of SFTP runs its own on loopback. Debian starts
# one on port 22 too; the tests leave it alone. The Azure server runs in node, from 18 on, and npm gets it: where there are
# some, from wherever they came, Debian's are not asked for.
PACKAGES := gcc libc6-dev strace curl age zstd iproute2 nftables openssh-server \
	$(shell command -v node >/dev/null || echo nodejs) $(shell command -v npm >/dev/null || echo npm)
# TEST_TIMEOUT is for the tests of one package. The slowest take five minutes on 2 cores that nobody else uses.
TEST_TIMEOUT ?= 20m
# FUZZTIME is for each fuzz test: enough to see that it runs and to find the plain mistakes. It is a number of inputs, as Go
# 1.26 sometimes reports the end of a time as a failure (golang/go#75804).
FUZZTIME ?= 10000x
# PKG narrows unit to some packages, as in: make unit PKG=./internal/capture
PKG ?= ./...

.PHONY: build demo test bench tools packages etcd servers check unit scripts fuzz fmt clean distclean

build:
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/holdfast ./cmd/holdfast

# The demo is run itself and not by `go run`, so that it gets the signals and can clean up.
demo: build
	@CGO_ENABLED=0 go build -o .cache/bin/demo ./test/demo
	@exec .cache/bin/demo $(if $(KEEP),-keep)

test: tools check build unit fuzz

# Without a NAME the program lists the benches there are.
bench: build
	@CGO_ENABLED=0 go build -o .cache/bin/bench ./test/bench
	@exec .cache/bin/bench $(NAME)

tools: packages etcd servers

packages:
	@missing=; \
	for package in $(PACKAGES); do \
		[ "$$(dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null)" = installed ] || missing="$$missing $$package"; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	install="apt-get install -y --no-install-recommends$$missing"; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "the tests need Debian packages that are missing; run as root: apt-get update && $$install" >&2; exit 1; \
	fi; \
	echo "installing the Debian packages that the tests need, as root:"; \
	export DEBIAN_FRONTEND=noninteractive; \
	echo "+ $$install"; \
	$$install </dev/null || { echo "+ apt-get update"; apt-get update; echo "+ $$install"; $$install </dev/null; }

# Real etcd servers of every supported version, into .cache/etcd. Quick when they are there.
etcd:
	@test/etcd/fetch.sh .cache/etcd

# Real object-storage servers, into .cache/servers. Quick when they are there.
servers:
	@test/servers/fetch.sh .cache/servers

check:
	@echo "+ gofmt"; unformatted=$$(gofmt -l cmd internal test *.go); \
	[ -z "$$unformatted" ] || { printf 'not formatted (run: make fmt):\n%s\n' "$$unformatted" >&2; exit 1; }
	go mod tidy -diff
	go mod verify
	go vet ./...
	go tool staticcheck ./...

unit:
	@echo "+ go test -race $(PKG)"
	@CGO_ENABLED=1 go test -race -timeout $(TEST_TIMEOUT) -json $(PKG) | go run ./test/report

scripts:
	@$(MAKE) --no-print-directory unit PKG=./test/scripts/...

fuzz:
	@for found in $$(grep -rHoE '^func Fuzz[A-Za-z0-9_]*' --include=*_test.go internal cmd | sed 's/:func /:/'); do \
		file=$${found%%:*} name=$${found##*:}; \
		echo "+ go test -fuzz $$name ./$${file%/*}, $(FUZZTIME)"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x "./$${file%/*}" || exit 1; \
	done

fmt:
	gofmt -w cmd internal test *.go

# The servers stay: they take minutes to build. distclean takes them too.
clean:
	rm -rf bin .cache/bin .cache/etcd/.new.* .cache/servers/.new.*

distclean: clean
	rm -rf .cache
