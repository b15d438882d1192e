# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export CGO_ENABLED := 0
export GOFLAGS     := -buildvcs=false

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS    := -s -w -X github.com/stentor-net/stentor/internal/cli.Version=$(VERSION)
KUBE       := v1.36.3
KUBE_FLAGS := $(foreach x,gitVersion=$(KUBE) gitMajor=1 gitMinor=36,-X k8s.io/component-base/version.$(x))
TOOL       := go tool -modfile=$(CURDIR)/tools/go.mod
GOTESTSUM  := $(TOOL) gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg
BIN        := $(CURDIR)/bin
LAB        := $(BIN)/stentor-lab
RUNTIME_DEPS := iproute2 containerd runc containernetworking-plugins nftables iptables
MACHINE_DEPS := qemu-system-x86 busybox-static iproute2
GEN_DEPS     := clang-19 llvm-19 protobuf-compiler libprotobuf-dev
KUBE_PROXY   ?= none
CONFORMANCE_FLAGS ?=

.PHONY: help deps deps-generate build build-arm64 lab generate verify lint test test-unit test-kernels test-lab connectivity-matrix bench bench-policy bench-services soak soak-corpora soak-policy soak-services mutants demo demo-down conformance conformance-netpol conformance-services conformance-build clean

help: ## List the targets.
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## Install the Debian packages that the lab needs (only those that are missing).
	@deploy/build/apt-install $(RUNTIME_DEPS)

deps-generate: ## Install the compiler that generated files need.
	@deploy/build/apt-install $(GEN_DEPS)

build: ## Build bin/stentor and bin/stentor-cni.
	go build -ldflags "$(LDFLAGS)" -o $(BIN)/stentor ./cmd/stentor
	go build -ldflags "$(LDFLAGS)" -o $(BIN)/stentor-cni ./cmd/stentor-cni

build-arm64: ## Build both for linux/arm64 into bin/arm64, to see that they do.
	GOARCH=arm64 go build -ldflags "$(LDFLAGS)" -o $(BIN)/arm64/stentor ./cmd/stentor
	GOARCH=arm64 go build -ldflags "$(LDFLAGS)" -o $(BIN)/arm64/stentor-cni ./cmd/stentor-cni

lab: build ## Build the lab: bin/stentor-lab and its Kubernetes (4 minutes the first time).
	cd lab && go build -ldflags "-s -w" -o $(BIN)/ ./cmd/...
	cd lab/dns && go build -ldflags "-s -w" -o $(BIN)/coredns .
	cd lab/kube && go build -ldflags "-s -w $(KUBE_FLAGS)" -o $(BIN)/stentor-kube .

generate: deps-generate ## Write all generated files again.
	go generate ./...

verify: generate ## Fail if a generated file differs from what is committed, or if a module is untidy.
	go mod tidy && (cd tools && go mod tidy) && (cd lab && go mod tidy) && (cd lab/bench && go mod tidy)
	@git diff --exit-code || { echo "generated files differ: run 'make generate' and commit"; exit 1; }
	@test -z "$$(git status --porcelain)" || { git status --short; echo "generated files are not committed"; exit 1; }

lint: ## Run gofmt, go vet and staticcheck.
	@test -z "$$(gofmt -l $$(git ls-files '*.go' | grep -v zz_generated))" || { gofmt -l $$(git ls-files '*.go'); echo "run gofmt -w"; exit 1; }
	go vet -tags kernels ./...
	cd lab && go vet ./...
	cd lab/bench && go vet ./...
	$(TOOL) staticcheck -tags kernels ./...
	cd lab && $(TOOL) staticcheck ./...
	cd lab/bench && $(TOOL) staticcheck ./...

test: lab ## Run every test; without root those with packets and the lab are skipped.
	@[ "$$(id -u)" != 0 ] || deploy/build/apt-install $(RUNTIME_DEPS)
	@$(MAKE) --no-print-directory test-unit test-kernels test-lab

test-unit: ## Run the tests of the main module and of the tools.
	$(GOTESTSUM) -- -timeout 20m ./...
	cd tools && $(GOTESTSUM) -- ./...

test-kernels: ## Run packets and traffic on Debian's kernels 6.1 and 6.12 in virtual machines.
	@[ "$$(id -u)" != 0 ] || deploy/build/apt-install $(MACHINE_DEPS)
	$(GOTESTSUM) -- -tags kernels -run TestOtherKernels -count 1 -timeout 20m ./bpf/test

test-lab: ## Run the lab's tests and the end-to-end stories (root).
	cd lab && $(GOTESTSUM) -- -p 1 -timeout 30m ./...
	cd lab/bench && $(GOTESTSUM) -- ./...

connectivity-matrix: lab ## Run `stentor connectivity test` in labs of every kind: 2 and 3 nodes, tunnel and native, families (root, a quarter of an hour).
	cd lab && STENTOR_E2E_MATRIX=1 $(GOTESTSUM) -- -count=1 -timeout 40m -run TestConnectivityMatrix ./e2e

soak: soak-corpora soak-policy soak-services ## All of the following.

soak-corpora: ## Judge every case of the verdict corpora by packets through the datapath (root).
	STENTOR_CORPUS_SAMPLE=1 go test ./bpf/test -count=1 -timeout 30m -run VerdictsOf -v

mutants: deps-generate ## Take the handling of bad input away, piece by piece, and see its tests fail (root); MUTANTS=regex: only these.
	go run ./internal/testkit/mutants $(if $(MUTANTS),-run '$(MUTANTS)')

bench: lab ## Measure everything beside the kernel's own ways, into docs/bench/ground.* (root, 10 minutes); BENCH=regex: only these parts, to the terminal.
	@[ "$$(id -u)" != 0 ] || deploy/build/apt-install $(RUNTIME_DEPS)
	@cd lab/bench && go build -mod=mod -ldflags "-s -w" -o $(BIN)/stentor-bench .
	$(BIN)/stentor-bench -root $(CURDIR) $(if $(BENCH),-run '$(BENCH)',-json docs/bench/ground.json -page docs/bench/ground.md)

conformance: deps lab conformance-build ## Run Kubernetes' own network suite in a lab (root).
	$(LAB) conformance --kube-proxy $(KUBE_PROXY) $(CONFORMANCE_FLAGS)

conformance-netpol: deps lab conformance-build ## Run the suite's NetworkPolicy specs in a lab (root).
	$(LAB) conformance --suite netpol --procs 12 --kube-proxy $(KUBE_PROXY) $(CONFORMANCE_FLAGS)

conformance-services: deps lab conformance-build ## Run all of the suite's specs about services in a lab of three nodes (root, a quarter of an hour).
	$(LAB) conformance --suite services --limit 30m --procs 8 --kube-proxy $(KUBE_PROXY) $(CONFORMANCE_FLAGS)

conformance-build: ## Build the upstream suite and the programs of its pods.
	cd lab/conformance && go test -c -vet=off -ldflags "-s -w" -o $(BIN)/network.test .
	cd lab/conformance && go build -ldflags "-s -w" -o $(BIN)/ tool

bench-policy: ## Measure changes of policy up to 100,000 identities, into docs/bench/policy-scale.md (5 minutes).
	go test ./internal/policy -run '^TestScale$$' -v -timeout 30m -args -scale -scale-out $(CURDIR)/docs/bench/policy-scale.md

bench-services: lab ## Measure services from 10 to 30,000 beside kube-proxy, into docs/bench/services.{md,csv} (root, 20 minutes); BENCH=regex: only these parts, FAST=1: few rounds, both to the terminal.
	@[ "$$(id -u)" != 0 ] || deploy/build/apt-install $(RUNTIME_DEPS)
	@cd lab/bench && go build -mod=mod -ldflags "-s -w" -o $(BIN)/stentor-bench .
	$(BIN)/stentor-bench -root $(CURDIR) -services $(if $(BENCH)$(FAST),$(if $(FAST),-fast) -run '$(BENCH)',-csv docs/bench/services.csv -page docs/bench/services.md)

soak-services: lab ## Drain a node and replace servers without preStop under load, and every story about services (root, 3 minutes).
	cd lab && STENTOR_SOAK_SERVICES=1 $(GOTESTSUM) -- -count=1 -v -timeout 20m -run '^TestTunnel$$/^(services|services-under-load|affinity|dns|no-rules)$$|^TestHostNamespaceOnly$$' ./e2e

soak-policy: ## Hold the policy engine against its oracle in SOAK (1,000,000) random clusters and changes; takes hours.
	go test ./internal/policy -run 'Oracle|EveryStep|Deltas|OrderOfEvents' -timeout 0 -rapid.checks=$(or $(SOAK),1000000)

demo: deps lab ## Bring a cluster up and show a policy at work; leaves the cluster running.
	$(LAB) demo

demo-down: ## Remove the demo's cluster.
	$(LAB) down

clean: ## Remove what was built.
	rm -rf $(BIN) .build
