#!/usr/bin/env bash
# fuzz.sh runs every fuzz target for the time given (default 20s). A crasher is
# kept by go test under the package's testdata/fuzz: commit it with its fix.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
time=${1:-20s}
while IFS=: read -r file line; do
	target=${line#func }
	echo "== fuzz ${file%/*} ${target%%(*} for $time"
	go test -run '^$' -fuzz "^${target%%(*}\$" -fuzztime "$time" "./${file%/*}"
done < <(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*(' -- * | sort)
