#!/usr/bin/env bash
# test.sh runs the stages named on its command line in that order, prints what
# each took, and stops at the first that fails. Called by make, which sees to
# the dependencies.
#
#   check  gofmt, go vet, golangci-lint
#   pure   every test that needs no mysqld (go test -short)
#   race   the same with the race detector
#   real   the tests that start mysqld; they skip themselves with -short
#   chaos  two minutes of faults by chance, of one seed (root)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HA_MYSQLD=${HA_MYSQLD:-$PWD/.deps/mysql/bin/mysqld}

# Prints the package patterns among the arguments whose directory has Go files.
existing() {
	local pattern
	for pattern; do
		if [[ -n $(find "${pattern%/...}" -name '*.go' -print -quit 2>/dev/null) ]]; then echo "$pattern"; fi
	done
}

stage_check() {
	local bad
	bad=$(find . -path ./.deps -prune -o -name '*.go' -not -path '*/testdata/*' -print0 | xargs -0 -r gofmt -l) || return
	if [[ -n $bad ]]; then
		printf 'not gofmt-ed:\n%s\n' "$bad"
		return 1
	fi
	go vet ./... || return
	# Its cache goes by content and remembers paths: shared between two clones it
	# reports files of the other. Its lock is one for the whole machine.
	GOLANGCI_LINT_CACHE=$PWD/.cache/golangci-lint \
		go tool -modfile=tools/go.mod golangci-lint run --allow-parallel-runners ./...
}

stage_pure() {
	go test -short -timeout 10m ./...
}

stage_race() {
	local packages
	mapfile -t packages < <(existing ./raftfsm/... ./mysqlctl/gtid/... ./gossip/... ./vip/... ./agent/...)
	((${#packages[@]})) || return 0
	CGO_ENABLED=1 go test -race -short -timeout 15m "${packages[@]}"
}

stage_real() {
	local packages
	if [[ ! -x $HA_MYSQLD ]]; then
		echo "no mysqld at $HA_MYSQLD: run make deps, or set HA_MYSQLD"
		return 1
	fi
	if ((EUID)); then echo "== NOT TESTED, as it needs root: virtual IPs, hosts and networks that break (./vip, ./lab)"; fi
	mapfile -t packages < <(existing ./mysqlctl/... ./agent/... ./lab/...)
	if [[ ! -x ${HA_DEPS_DIR:-.deps}/mariadb/bin/mariadb-backup ]]; then
		echo "== NOT TESTED: copies by a real mariadb-backup (./agent/engine); make deps-mariadb gets it"
	fi
	echo "== NOT TESTED: xtrabackup itself, which cannot be installed here; a stand-in takes its place"
	# One package at a time: each starts several servers.
	# -count=1: what servers did yesterday is no proof for today.
	go test -count=1 -p 1 -timeout 25m "${packages[@]}" .
}

stage_chaos() {
	# A binary of its own in our process group: Ctrl-C reaches it, and so does the
	# signal of timeout, and it takes its hosts away.
	go build -o artifacts/chaos ./lab/chaos || return
	timeout --foreground -k 30 600 artifacts/chaos -minutes 2 -layout '3 data' -seed 1
}

now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
seconds() { printf '%d.%d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }

began=$(now_ms)
for stage; do
	if ! declare -F "stage_$stage" >/dev/null; then
		echo "test.sh: no stage $stage (check, pure, race, real, chaos)" >&2
		exit 2
	fi
	from=$(now_ms)
	"stage_$stage"
	status=$?
	echo "== stage $stage: $(seconds $(($(now_ms) - from)))"
	if ((status)); then
		echo "== FAILED in stage $stage"
		exit 1
	fi
done
echo "== all passed ($*): $(seconds $(($(now_ms) - began)))"
