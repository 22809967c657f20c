# isosyncd. `make` builds; `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
DESTDIR ?=
PREFIX  ?= /usr/local
PROGRAM := bin/isosyncd
TOOL    := go tool -modfile=tools.mod
# Not in tools.mod: its hundreds of modules would decide the versions of those that others there need.
LINT    := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# How long each parser is fuzzed by `make fuzz`.
FUZZTIME ?= 30s

export VERSION DESTDIR PREFIX

.PHONY: help build test lint format demo run crash bench bench-micro fuzz install uninstall deb test-system clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

build: ## build bin/isosyncd
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(PROGRAM) ./cmd/isosyncd

test: ## go vet, and all tests with the race detector; real servers and FUSE where they are
	.ci/test

lint: ## golangci-lint and gofumpt; the first time they are built, which takes minutes
	$(LINT) run ./...
	@out=$$($(TOOL) gofumpt -l $$(git ls-files -co --exclude-standard '*.go')); \
	  if [ -n "$$out" ]; then echo "not formatted, run make format:"; echo "$$out"; exit 1; fi

format: ## format all Go files
	$(TOOL) gofumpt -w $$(git ls-files -co --exclude-standard '*.go')

demo: build ## show it at work in a temporary directory, without any server
	testdata/demo.sh $(PROGRAM)

run: build ## run the daemon in the foreground, on ./run/drop and a store in ./run/isos
	mkdir -p run/drop
	@echo "copy images into run/drop; ask with: $(PROGRAM) status --control run/control.sock"
	$(PROGRAM) run --folder "$$PWD/run/drop" --remote "store:$$PWD/run/isos" --state-dir "$$PWD/run/state" \
	  --control "$$PWD/run/control.sock"

crash: ## kill -9 at every step of every flow
	go test -count=1 -timeout 30m -v -run '^TestCrash' ./cmd/isosyncd

bench: ## compare with the programs and servers of others, and write docs/PERFORMANCE.md; needs root and 20 minutes
	.ci/bench

bench-micro: ## the benchmarks of each package; BASE=FILE compares with an earlier dist/bench-micro.txt
	.ci/bench micro

fuzz: ## fuzz every parser for FUZZTIME
	@for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
	  done; \
	done

dist/generated: build
	packaging/generate.sh $(PROGRAM) dist/generated

install: dist/generated ## install below DESTDIR and PREFIX
	packaging/install.sh install $(PROGRAM) dist/generated

uninstall: ## remove what install put there
	packaging/install.sh uninstall

deb: ## build the Debian package into dist/
	packaging/deb.sh

test-system: ## install the package in a booted container, and use it; needs root
	packaging/test-system.sh

clean: ## remove what was built
	rm -rf bin dist
