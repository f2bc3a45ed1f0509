# Two commands for a fresh Debian 12: `make demo` and `make test`. Each sets up what it needs; `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV := .venv
# Debian's own interpreter: the bindings of libvirt, libnbd and libguestfs are built for it
PYTHON := /usr/bin/python3
PY := $(VENV)/bin/python
GEN := coriolis/rpc/gen
STUBS := $(GEN)/.made
BUF := node_modules/.bin/buf
PROTOS := $(shell find protos -name '*.proto')
# libvirt daemons of their own, mount namespaces and guests' file owners need root
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo -n env "PATH=$(PATH)")

# How often each process is killed: `make fault` raises it
CORIOLIS_FAULT_RUNS ?= 10
export CORIOLIS_FAULT_RUNS
# A test whose prerequisites are absent fails instead of being skipped (tests/conftest.py)
export CORIOLIS_NO_SKIPS := 1
PYTEST = $(AS_ROOT) $(if $(AS_ROOT),CORIOLIS_NO_SKIPS=1 CORIOLIS_FAULT_RUNS=$(CORIOLIS_FAULT_RUNS)) $(PY) -m pytest
# Fast and cheap first, so that a plain mistake shows early
SUITES := tests/unit tests/security tests/contract tests/api tests/integration tests/fault
# Of the tests that need a whole OpenStack, CI runs the founding request and a tenth of the kills
CI_TESTS := not full and not ceph and (not openstack or openstack_in_ci)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

# ---- set-up -------------------------------------------------------------------------------------------------------

.PHONY: setup
setup: system $(VENV)/.made $(STUBS) ## Debian packages, .venv and generated stubs; quick when all is there

.PHONY: system
system:
	@tools/setup_system

$(VENV)/.made: pyproject.toml constraints.txt | system
	[ -x $(PY) ] || $(PYTHON) -m venv --system-site-packages $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[gateway,etcd,vsphere,openstack,dev]'
	touch $@

.PHONY: stubs
stubs: setup ## Python code of protos/, made again only when they changed

$(STUBS): $(PROTOS) tools/generate_stubs.py $(VENV)/.made
	$(PY) tools/generate_stubs.py
	touch $@

.PHONY: openstack-lab
openstack-lab: setup ## Debian packages of a whole OpenStack for tests/lab/openstack; three minutes once
	@tools/setup_system openstack

.PHONY: test-openstack
test-openstack: openstack-lab ## what needs a whole OpenStack, the founding request included: a quarter of an hour
	$(PYTEST) -m "openstack and not ceph" $(SUITES)

.PHONY: ceph-lab
ceph-lab: setup ## Debian packages of a small Ceph for tests/lab/ceph.py
	@tools/setup_system ceph

.PHONY: test-ceph
test-ceph: ceph-lab openstack-lab ## volumes in a real Ceph: read alone, then as Cinder's behind a whole OpenStack
	$(PYTEST) -m "ceph and not openstack" $(SUITES)
	$(PYTEST) -m "ceph and openstack" $(SUITES)

.PHONY: founding
founding: openstack-lab ## four machines of a simulated vCenter to a real OpenStack, by one REST request
	$(PYTEST) -m openstack tests/integration/test_founding.py

.PHONY: keystone-lab
keystone-lab: setup
	@tools/setup_system keystone

# `npm install`, not `npm ci`: that insists on optional packages of other platforms, which not every mirror carries
$(BUF): package.json package-lock.json | system
	npm install --no-save --no-audit --no-fund --ignore-scripts --loglevel=error
	touch -c $@

# ---- run it -------------------------------------------------------------------------------------------------------

.PHONY: up
up: setup ## a whole mesh on this machine: REST on http://127.0.0.1:7667, data in ./coriolis-data
	$(VENV)/bin/coriolis up --data-dir coriolis-data

.PHONY: demo
demo: setup ## move a running guest from one libvirt to another through the REST API (DEMO_ARGS=--keep keeps all)
	$(AS_ROOT) $(PY) -m tests.lab.demo $(DEMO_ARGS)

# ---- check it -----------------------------------------------------------------------------------------------------

.PHONY: test
test: lint types protos openstack-lab ## everything CI runs: lint, types, protos, then all tests
	$(PYTEST) -m "$(CI_TESTS)" --durations=40 $(SUITES)

.PHONY: test-unit
test-unit: setup ## no network, no root, a minute
	$(PY) -m pytest -m "not full and not openstack and not lab and not ceph" tests/unit tests/security

.PHONY: contract
contract: setup ## every provider against the one suite
	$(PYTEST) tests/contract

.PHONY: integration
integration: keystone-lab ## real etcd, libvirt, QEMU, libguestfs, whole meshes
	$(PYTEST) tests/integration

VSPHERE_TESTS := $(wildcard tests/unit/providers/test_vsphere_*.py tests/unit/providers/test_stream_*.py \
  tests/integration/test_vsphere_*.py tests/integration/test_mesh_vsphere*.py tests/fault/test_vsphere_*.py)

.PHONY: test-vsphere
test-vsphere: setup ## the vSphere provider against govmomi's simulated vCenter, a booting guest and kills included
	$(PYTEST) $(VSPHERE_TESTS) tests/unit/providers/test_connection_slots.py
	$(PYTEST) tests/contract -k vsphere

.PHONY: api
api: keystone-lab ## REST, the published client, the CLI
	$(PYTEST) tests/api

.PHONY: lab
lab: setup ## only tests that need root and real guests
	$(PYTEST) -m "lab and not ceph" $(SUITES)

.PHONY: guests
guests: setup ## what CI leaves out: more real guests, all phony families; an hour or more
	$(PYTEST) -m full $(SUITES)

.PHONY: fault-quick
fault-quick: CORIOLIS_FAULT_RUNS = 10
fault-quick: setup ## kill and pause real processes, 10 times each
	$(PYTEST) tests/fault

.PHONY: fault
fault: CORIOLIS_FAULT_RUNS = 100
fault: setup ## the same 100 times each: hours
	$(PYTEST) tests/fault

.PHONY: fault-openstack
fault-openstack: CORIOLIS_FAULT_RUNS = 100
fault-openstack: openstack-lab ## kills at each request to a real OpenStack that makes or removes something, 50 seeds: most of an hour
	$(PYTEST) -m openstack tests/fault

.PHONY: mutants
mutants: setup ## prove that the tests notice a missing fence
	$(AS_ROOT) $(PY) -m tests.mutants

.PHONY: lint
lint: setup ## ruff, shell scripts
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check -q .
	tools/lint_shell

.PHONY: types
types: setup ## mypy --strict
	$(VENV)/bin/mypy
	MYPYPATH=clients/python $(VENV)/bin/mypy -p coriolis_client

.PHONY: protos
protos: setup $(BUF) ## buf lint
	$(BUF) lint

# ---- measure it ---------------------------------------------------------------------------------------------------

# e.g. make bench BENCH_ARGS="--transport grpc --images realistic --n 3"; bench/README.md tells the rest
BENCH_ARGS ?=

.PHONY: bench
bench: setup ## our agents beside nbdcopy and qemu-img, over loopback: half an hour, a quiet machine
	$(PY) -m bench $(BENCH_ARGS)

.PHONY: bench-quick
bench-quick: setup ## the same with 256 MiB images, twice: shows that it works, not how fast
	$(PY) -m bench --n 2 --size 0.25 $(BENCH_ARGS)

.PHONY: bench-wan
bench-wan: setup ## over an emulated line of 1 Gbit/s and 50 ms, with and without loss; needs root
	$(AS_ROOT) $(PY) -m bench.wan $(BENCH_ARGS)

# Only this target needs virt-v2v, so the set-up of all others does without
.PHONY: bench-convert
bench-convert: setup ## our conversion beside virt-v2v-in-place, guest by guest; ten minutes each without KVM
	command -v virt-v2v-in-place >/dev/null || \
	  $(AS_ROOT) DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends virt-v2v
	$(AS_ROOT) $(PY) -m bench.convert $(BENCH_ARGS)

.PHONY: bench-vsphere
bench-vsphere: setup ## reading from a simulated vSphere beside curl and a plain decoder; three minutes, 7 GiB of memory
	$(PY) -m bench.vsphere $(BENCH_ARGS)

# ---- ship it ------------------------------------------------------------------------------------------------------

.PHONY: dist
dist: setup ## wheel and sdist with the generated stubs; proves that the wheel works in a venv of its own
	rm -rf dist build
	$(PY) -m build --outdir dist .
	tools/check_dist dist

.PHONY: clean
clean: ## remove what was built here (the cached guest stays)
	rm -rf $(VENV) $(GEN) node_modules build dist bench/out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo
