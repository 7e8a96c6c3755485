# Type `make` for the targets.

SHELL := /bin/bash
export HA_DEPS_DIR ?= $(CURDIR)/.deps
# The mysqld that tests start: one of your own, or the one `make deps` gets.
export HA_MYSQLD ?= $(abspath $(HA_DEPS_DIR)/mysql/bin/mysqld)

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
FUZZTIME ?= 20s

.DEFAULT_GOAL := help
.PHONY: help deps deps-mariadb build check test race fuzz sim sim-mutants demo bench-failover bench-switchover bench-vip faults copies-all join bench-rebuild bench-idle lab lab-fast lab-all chaos stress clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## get what is missing: MySQL (into .deps), tools, Go modules
	@scripts/deps.sh

deps-mariadb: ## get MariaDB and mariadb-backup too (into .deps), for the tests of that engine
	@scripts/deps.sh mariadb

build: deps ## build ./ha, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o ha .

check: deps ## gofmt, go vet, golangci-lint
	@scripts/test.sh check

test: deps ## all tests: check, pure, race, real (on real MySQL servers), chaos
	@scripts/test.sh check pure race real chaos

race: deps ## the race detector over the packages that need no mysqld
	@scripts/test.sh race

fuzz: deps ## each fuzz target for FUZZTIME (20s)
	@scripts/fuzz.sh $(FUZZTIME)

SEED ?= 1
RUNS ?= 10000
sim: ## RUNS (10000) random runs of the decision core from SEED (1) on
	go test ./raftfsm/raftfsmtest -count=1 -timeout 24h -run 'TestSim$$' -args -sim.from=$(SEED) -sim.runs=$(RUNS)

MUTANT_RUNS ?= 20000
sim-mutants: ## see that the simulator catches each rule switched off, within MUTANT_RUNS (20000) runs
	go test ./raftfsm/raftfsmtest -count=1 -timeout 24h -v -run 'TestMutants$$' -args -mutants=$(MUTANT_RUNS)

demo: build ## a cluster on this machine that loses its primary before your eyes
	@scripts/demo.sh

LOG ?= 0
bench-failover: deps ## how long clients wait when the primary dies, with LOG (0) MB in its binary log
	go run ./bench/failover -log $(LOG)

bench-switchover: deps ## how long clients wait when the primary is switched over, beside a script
	go run ./bench/switchover

bench-vip: deps ## how long clients of the virtual IP wait, from hosts of their own (root)
	go run ./bench/outage

ROUNDS ?= 10
faults: deps ## every fault that one host can show and a death between any two steps, ROUNDS (10) times
	HA_FAULTS=all go test . -count=$(ROUNDS) -v -timeout 8h -run '^Test(Faults|Death|PrimaryKilled|AgentsKilled|AllKilled|AllDie|TwoDeaths|OldPrimary|Ackers|HostStopped|SwitchoverBlocked)'

copies-all: deps ## every fault in the middle of a copy, at 10, 50 and 90 %, and restores (those of networks and disks: root)
	HA_COPIES=all go test . -count=1 -v -timeout 1h -run 'TestCopy|TestRestore'
	go test ./lab -count=1 -v -timeout 1h -run '^TestCopies$$' -args -all

SIZE ?= 5
THROTTLE ?= 40MB
bench-rebuild: deps ## ha rebuild of SIZE (5) GB beside a script with CLONE, and what clients notice of one at THROTTLE (40MB)
	go run ./bench/rebuild -size $(SIZE) -throttle $(THROTTLE)

join: deps ## empty hosts join a cluster with SIZE (5) GB under load: how long until they acknowledge
	HA_JOIN_GB=$(SIZE) go test . -count=1 -v -timeout 1h -run 'TestEmptyHostsJoin'

bench-idle: deps ## what an idle cluster costs
	go run ./bench/idle

lab: deps ## hosts, network and virtual IP on this machine, to break by hand (root); until Ctrl-C
	go run ./lab/up

lab-fast: deps ## a few faults of hosts and networks (root); part of make test
	go test ./lab -count=1 -v -timeout 15m

FAULT ?= .
lab-all: deps ## every fault of hosts, networks, disks and replication, or those that match FAULT (root); writes docs/FAULTS.md
	go test ./lab -count=1 -v -timeout 3h -run '^Test(NothingStays|Process|Network|Disk|Replication|Copies)$$/($(FAULT))' -args -all -table $(CURDIR)/docs/FAULTS.md

MINUTES ?= 30
chaos: deps ## MINUTES (30) of faults by chance from SEED (1), on 3 and 5 hosts and on 2 with a witness (root); writes artifacts/chaos-SEED.md
	go run ./lab/chaos -minutes $(MINUTES) -seed $(SEED) -report artifacts/chaos-$(SEED).md

stress: deps ## MINUTES (30) of busy processors, lost packets and stopped agents: nothing is failed over (root)
	go test ./lab -count=1 -v -timeout 3h -run '^TestStress$$' -args -stress $(MINUTES)m

clean: ## remove what was built, but not .deps
	rm -rf ha artifacts
	find . -path ./.deps -prune -o \( -name '*.test' -o -name '*.prof' \) -type f -exec rm -f {} +
