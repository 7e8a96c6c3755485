#!/usr/bin/env bash
# demo.sh shows the main job on real servers: three agents become a cluster, an
# application writes, the primary's mysqld is killed with SIGKILL, and the
# application goes on without one lost row. Ends 0 only if no row was lost.
# Called by `make demo`, which gets MySQL and the modules first.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HA_MYSQLD=${HA_MYSQLD:-$PWD/.deps/mysql/bin/mysqld}

dir=$(mktemp -d "${TMPDIR:-/tmp}/ha-demo.XXXXXX")
sandbox=$dir/sandbox
writer=

say() { printf '\n== %s\n' "$*"; }

# Whatever ends the demonstration, nothing of it stays.
finish() {
	local status=$?
	trap - EXIT INT TERM
	if [[ -n $writer ]]; then
		kill "$writer" 2>/dev/null && wait "$writer" 2>/dev/null
	fi
	if [[ -x $dir/ha && -e $sandbox/sandbox.json ]]; then
		if ((status)); then
			say "it failed; what the agents said last"
			tail -n 20 "$sandbox"/n*/agent.log
		fi
		say "taking the sandbox down"
		"$dir/ha" sandbox down --purge --dir "$sandbox" || status=1
	fi
	rm -rf "$dir"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say "building ha"
CGO_ENABLED=0 go build -trimpath -o "$dir/ha" . || exit
go build -o "$dir/writer" ./bench/writer || exit
ha=$dir/ha

say "three agents and three mysqlds find each other (ha sandbox up)"
# A network of its own: a sandbox that somebody runs is not disturbed.
"$ha" sandbox up --dir "$sandbox" --base-address "${HA_DEMO_BASE:-127.0.90.0}" || exit

say "an application writes a row each millisecond, to whichever server takes it"
"$dir/writer" --dir "$sandbox" &
writer=$!
sleep 4
primary=$("$ha" sandbox status --dir "$sandbox" -o json | sed -n 's/^  "primary": "\(.*\)",$/\1/p')
[[ -n $primary ]] || exit 1

say "ha sandbox kill $primary mysqld (SIGKILL to the primary)"
"$ha" sandbox kill "$primary" mysqld --dir "$sandbox" || exit
say "ha status, at once"
"$ha" sandbox status --dir "$sandbox"
sleep 1
say "ha status, a second later"
"$ha" sandbox status --dir "$sandbox"

say "waiting until $primary is back as a replica"
well=
for ((i = 0; i < 120; i++)); do
	if "$ha" sandbox status --dir "$sandbox" >/dev/null 2>&1; then
		well=1
		break
	fi
	sleep 0.5
done
"$ha" sandbox status --dir "$sandbox"
[[ -n $well ]] || exit 1
sleep 2

say "the application stops and looks for each acknowledged row on each server"
kill -INT "$writer"
wait "$writer"
status=$?
writer=
exit "$status"
