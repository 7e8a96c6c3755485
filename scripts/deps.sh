#!/usr/bin/env bash
# deps.sh gets what the build and the tests need and this machine lacks:
#
#   tools    ordinary Debian packages (ip, iptables, ps, gcc, ...)
#   mysql    MySQL >= 9.7 in a prefix of the project's own, see
#            docs/adr/0001-mysql-from-sid-into-prefix.md
#   modules  the Go modules of the root and of tools/
#
# It is cached: when a stamp says that nothing has changed, it returns at once.
#
# "deps.sh mariadb" gets MariaDB and mariadb-backup, for the tests of that engine
# only; without them these say that they were skipped.
#
#   HA_DEPS_DIR       where to keep things (default: .deps in the repository);
#                     clones that share it download once
#   HA_MYSQLD         a mysqld of your own; then none is downloaded
#   HA_DEPS_OPTIONAL  1: what cannot be had is a warning, not a failure
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin

deps=${HA_DEPS_DIR:-.deps}
mkdir -p "$deps"
deps=$(realpath "$deps")
prefix=$deps/mysql
want_mysql=9.7
# Raise this when the contents of the prefix change: it is built anew.
prefix_layout=1
missing=()

say() { printf 'deps: %s\n' "$*"; }
lack() { # what, advice
	missing+=("$1")
	printf 'deps: MISSING %s\n' "$1: $2" >&2
}

# --- ordinary tools ---------------------------------------------------------

# Prints the Debian packages whose command or file is absent.
absent_packages() {
	local have
	while read -r package have; do
		case $have in
		/*) [[ -e $have ]] || echo "$package" ;;
		*) command -v "$have" >/dev/null || echo "$package" ;;
		esac
	done <<-'LIST'
		iproute2 ip
		iptables iptables
		procps ps
		ca-certificates /etc/ssl/certs/ca-certificates.crt
		make make
		gcc gcc
		libc6-dev /usr/include/stdio.h
		git git
	LIST
}

get_tools() {
	local absent
	mapfile -t absent < <(absent_packages)
	((${#absent[@]})) || return 0
	local install=(apt-get install -y --no-install-recommends "${absent[@]}")
	if ! command -v apt-get >/dev/null; then
		lack "${absent[*]}" "install them with this system's package manager"
		return
	fi
	if ((EUID != 0)); then
		lack "${absent[*]}" "type: sudo ${install[*]}"
		return
	fi
	say "installing ${absent[*]}"
	export DEBIAN_FRONTEND=noninteractive
	local quiet=(-qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300) log=$deps/tools.log
	if ! apt-get "${quiet[@]}" "${install[@]:1}" >"$log" 2>&1; then
		apt-get "${quiet[@]}" update >>"$log" 2>&1 || true
		if ! apt-get "${quiet[@]}" "${install[@]:1}" >>"$log" 2>&1; then
			tail -n 20 "$log" >&2
			lack "${absent[*]}" "apt-get failed (log: $log); type: ${install[*]}"
		fi
	fi
}

# --- MySQL ------------------------------------------------------------------

# Writes an apt source for suite sid into directory $1 and prints its path. It is
# this machine's own Debian source with another suite: mirror, keys and options
# stay whatever the machine's owner chose.
sid_source() {
	local dir=$1 codename file
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
	local suites=" $codename stable oldstable testing unstable sid "

	for file in /etc/apt/sources.list.d/*.sources; do
		[[ -e $file ]] || continue
		if awk -v suites="$suites" '
			function take(   ok, n, i, s, want) {
				want = 0
				n = split(field["suites"], s, /[ \t\n]+/)
				for (i = 1; i <= n; i++) if (s[i] != "" && index(suites, " " s[i] " ")) want = 1
				ok = want && (" " field["types"] " ") ~ /[ \t\n]deb[ \t\n]/ \
					&& (" " field["components"] " ") ~ /[ \t\n]main[ \t\n]/ \
					&& tolower(field["enabled"]) !~ /no|false|off|0/
				if (ok) {
					print "Types: deb\nSuites: sid\nComponents: main\nTargets: Packages"
					printf "%s", rest
					found = 1
					exit
				}
			}
			function reset() { split("", field); rest = ""; name = "" }
			/^#/ { next }
			/^[ \t]*$/ { take(); reset(); next }
			/^[ \t]/ { field[name] = field[name] "\n" $0; if (keep) rest = rest $0 "\n"; next }
			{
				name = tolower($0); sub(/:.*/, "", name)
				value = $0; sub(/^[^:]*:[ \t]*/, "", value)
				field[name] = value
				keep = name !~ /^(types|suites|components|targets|architectures|enabled|pdiffs|snapshot)$/
				if (keep) rest = rest $0 "\n"
			}
			END { if (!found) take(); exit !found }
		' "$file" >"$dir/sid.sources"; then
			echo "$dir/sid.sources"
			return
		fi
	done
	rm -f "$dir/sid.sources"

	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[[ -e $file ]] || continue
		if awk -v suites="$suites" '
			$1 != "deb" { next }
			{
				line = $0; sub(/[ \t]*#.*/, "", line); sub(/^[ \t]*deb[ \t]+/, "", line)
				options = ""
				if (match(line, /^\[[^]]*\]/)) {
					options = substr(line, 2, RLENGTH - 2)
					line = substr(line, RLENGTH + 1)
				}
				n = split(line, part, /[ \t]+/); at = part[1] == "" ? 2 : 1
				if (!index(suites, " " part[at + 1] " ")) next
				main = 0
				for (i = at + 2; i <= n; i++) if (part[i] == "main") main = 1
				if (!main) next
				gsub(/(arch|target|pdiffs|snapshot)[+-]?=[^ \t]*/, "", options)
				print "deb [ " options " target=Packages ] " part[at] " sid main"
				found = 1
				exit
			}
			END { exit !found }
		' "$file" >"$dir/sid.list"; then
			echo "$dir/sid.list"
			return
		fi
	done
	rm -f "$dir/sid.list"
	return 1
}

# Writes one wrapper into $1/bin for the program $2 (path in the prefix); the
# other arguments are options that tell it where its own files are.
write_wrapper() {
	local root=$1 program=$2 options
	shift 2
	printf -v options ' "%s"' "$@"
	local wrapper=$root/bin/${program##*/}
	cat >"$wrapper" <<-EOF
		#!/bin/sh
		# Written by scripts/deps.sh. Runs PREFIX/$program with the C library and
		# the libraries of the prefix, not the system's. PREFIX is where this file is:
		# the directory can move. It replaces itself (exec), so the pid stays.
		self=\$(readlink -f -- "\$0")
		prefix=\${self%/*/*}
		lib=\$prefix/usr/lib/$triple
		# Options about option files must come before all others.
		first=0
		for arg do
			case \$arg in
			--no-defaults | --print-defaults | --no-login-paths | --defaults-*=* | --login-path=*) first=\$((first + 1)) ;;
			*) break ;;
			esac
		done
		left=\$#
		while [ "\$left" -gt 0 ]; do
			[ "\$first" -ne 0 ] || set -- "\$@"$options
			first=\$((first - 1))
			arg=\$1
			shift
			set -- "\$@" "\$arg"
			left=\$((left - 1))
		done
		[ "\$first" -ne 0 ] || set -- "\$@"$options
		# A host's openssl.cnf must not pull in a module built for its own C library.
		export OPENSSL_MODULES="\$lib/ossl-modules"
		exec "\$lib/$loader" --library-path "\$lib:\$prefix/usr/lib/mysql/private" \\
			--argv0 "\$prefix/$program" "\$prefix/$program" "\$@"
	EOF
	chmod 755 "$wrapper"
}

# Starts the server in $1 on a throw-away data directory and loads the plugins
# that ha needs.
try_mysql() {
	local root=$1 dir pid="" user=() plugin status=1
	((EUID != 0)) || user=(--user=root)
	# A short path: a socket's name may have 107 bytes at most.
	dir=$(mktemp -d /tmp/ha-deps.XXXXXX)
	local log=$dir/log
	local client=("$root/bin/mysql" --no-defaults -uroot -S "$dir/s" -N -B)
	if "$root/bin/mysqld" --no-defaults "${user[@]}" --datadir="$dir/d" --initialize-insecure >"$log" 2>&1; then
		"$root/bin/mysqld" --no-defaults "${user[@]}" --datadir="$dir/d" --socket="$dir/s" \
			--pid-file="$dir/pid" --skip-networking --mysqlx=OFF >>"$log" 2>&1 &
		pid=$!
		for _ in {1..300}; do
			"${client[@]}" -e 'DO 1' >/dev/null 2>&1 && break
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		status=0
		for plugin in rpl_semi_sync_source=semisync_source.so rpl_semi_sync_replica=semisync_replica.so clone=mysql_clone.so; do
			"${client[@]}" -e "INSTALL PLUGIN ${plugin%=*} SONAME '${plugin#*=}'" >>"$log" 2>&1 || status=1
		done
		"${client[@]}" -e SHUTDOWN >>"$log" 2>&1 || kill -9 "$pid" 2>/dev/null || true
		wait "$pid" || status=1
	fi
	((status == 0)) || tail -n 20 "$log" >&2
	rm -rf "$dir"
	return "$status"
}

get_mysql() {
	if [[ -n ${HA_MYSQLD:-} && -x $HA_MYSQLD && $(realpath "$HA_MYSQLD") != "$prefix/bin/mysqld" ]]; then
		say "using your own mysqld, $HA_MYSQLD"
		return
	fi
	[[ $(cat "$prefix/.layout" 2>/dev/null) != "$prefix_layout" ]] || return 0

	local tool
	for tool in apt-get dpkg awk; do
		if ! command -v "$tool" >/dev/null; then
			lack mysql "no $tool here; install MySQL >= $want_mysql and set HA_MYSQLD to its mysqld"
			return
		fi
	done
	local arch triple loader source work=$deps/work
	arch=$(dpkg --print-architecture)
	case $arch in
	amd64) triple=x86_64-linux-gnu loader=ld-linux-x86-64.so.2 ;;
	arm64) triple=aarch64-linux-gnu loader=ld-linux-aarch64.so.1 ;;
	*)
		lack mysql "no recipe for architecture $arch; set HA_MYSQLD to a mysqld >= $want_mysql"
		return
		;;
	esac

	rm -rf "$work"
	mkdir -p "$work"/{etc,state/lists/partial,cache/archives/partial,root/bin}
	: >"$work/state/status"
	if ! source=$(sid_source "$work/etc"); then
		lack mysql "no Debian source in this machine's apt configuration; set HA_MYSQLD to a mysqld >= $want_mysql"
		return
	fi
	# Given with -c it is read after the machine's own files, whose proxy and
	# authentication settings stay in force. The status file is empty: apt thinks
	# that nothing is installed and takes the C library and all else from sid.
	cat >"$work/etc/apt.conf" <<-EOF
		Dir::State "$work/state";
		Dir::State::lists "$work/state/lists";
		Dir::State::status "$work/state/status";
		Dir::Cache "$work/cache";
		Dir::Cache::archives "$work/cache/archives";
		Dir::Etc::sourcelist "$source";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Dir::Log "$work";
		APT::Default-Release "";
		APT::Install-Recommends "false";
		APT::Install-Suggests "false";
		APT::Sandbox::User "";
		Acquire::Languages { "none"; };
		Acquire::Retries "3";
		#clear APT::Architectures;
		APT::Architectures { "$arch"; };
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Pre-Invoke;
		#clear DPkg::Post-Invoke;
		#clear DPkg::Pre-Install-Pkgs;
	EOF
	local log=$deps/mysql.log
	say "downloading MySQL (about 80 MB) into $prefix"
	if ! { apt-get -c "$work/etc/apt.conf" -q update &&
		apt-get -c "$work/etc/apt.conf" -q -y --download-only install mysql-server-core mysql-client-core; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		lack mysql "download failed (log: $log)"
		return
	fi

	local root=$work/root deb version
	for deb in "$work"/cache/archives/*.deb; do
		dpkg -x "$deb" "$root"
	done
	# What mysqld never reads: documents, translations, perl.
	rm -rf "$root"/usr/share/{doc,man,locale,lintian,perl,perl5,gdb,gcc,info,bash-completion} \
		"$root"/usr/share/perl* "$root/usr/lib/$triple"/perl* "$root/usr/lib/$triple"/libperl* \
		"$root"/usr/bin/{*perl*,pod*,cpan*} "$root/usr/lib/$triple/gconv"

	local place=('$prefix/usr/share/mysql' '$prefix/usr/lib/mysql/plugin')
	write_wrapper "$root" usr/sbin/mysqld '--basedir=$prefix/usr' \
		"--lc-messages-dir=${place[0]}" "--plugin-dir=${place[1]}" --secure-file-priv=
	for tool in mysql mysqladmin mysqlbinlog mysqldump; do
		[[ -x $root/usr/bin/$tool ]] || continue
		write_wrapper "$root" "usr/bin/$tool" "--character-sets-dir=${place[0]}/charsets" "--plugin-dir=${place[1]}"
	done
	for tool in innochecksum ibd2sdi mysql_config_editor; do
		[[ ! -x $root/usr/bin/$tool ]] || write_wrapper "$root" "usr/bin/$tool"
	done

	if ! version=$("$root/bin/mysqld" --no-defaults --version 2>&1); then
		lack mysql "the downloaded server does not start: $version"
		return
	fi
	version=$(sed -n 's/.* Ver \([0-9][0-9.]*\).*/\1/p' <<<"$version")
	if [[ $(printf '%s\n' "$want_mysql" "$version" | sort -V | head -n 1) != "$want_mysql" ]]; then
		lack mysql "the mirror has MySQL $version, and $want_mysql or newer is needed"
		return
	fi
	say "trying MySQL $version: start, semi-sync, clone, stop"
	if ! try_mysql "$root"; then
		lack mysql "MySQL $version was downloaded but does not work here (see above)"
		return
	fi
	echo "$version" >"$root/.version"
	echo "$prefix_layout" >"$root/.layout"
	rm -rf "$prefix"
	mv "$root" "$prefix"
	rm -rf "$work"
}

# --- MariaDB, if asked for ---------------------------------------------------

# Unpacks this release's MariaDB below $deps/mariadb: installed as a package it
# would be started as a service. What it needs and this machine lacks goes along;
# the rest, the C library first, is the machine's.
get_mariadb() {
	local root=$deps/mariadb work=$deps/work-mariadb log=$deps/mariadb.log tool deb name
	[[ ! -e $root/.version ]] || return 0
	for tool in apt-get dpkg; do
		command -v "$tool" >/dev/null || { lack mariadb "no $tool here"; return; }
	done
	local triple
	triple=$(dpkg --print-architecture)
	case $triple in
	amd64) triple=x86_64-linux-gnu ;;
	arm64) triple=aarch64-linux-gnu ;;
	*) lack mariadb "no recipe for architecture $triple"; return ;;
	esac
	rm -rf "$work" "$root"
	mkdir -p "$work/archives/partial" "$work/root/bin"
	say "downloading MariaDB (about 20 MB) into $root"
	local get=(apt-get -q -y -o Debug::NoLocking=1 -o Dir::Cache::archives="$work/archives" -o APT::Sandbox::User=
		--no-install-recommends --reinstall --download-only install mariadb-server-core mariadb-client-core mariadb-backup)
	if ! "${get[@]}" >"$log" 2>&1; then
		apt-get -q update >>"$log" 2>&1 || true
		if ! "${get[@]}" >>"$log" 2>&1; then
			tail -n 20 "$log" >&2
			lack mariadb "download failed (log: $log)"
			return
		fi
	fi
	for deb in "$work"/archives/*.deb; do
		dpkg -x "$deb" "$work/root"
	done
	for tool in sbin/mariadbd bin/mariadb-backup bin/mbstream bin/mariadb-install-db; do
		name=${tool##*/}
		cat >"$work/root/bin/$name" <<-EOF
			#!/bin/sh
			# Written by scripts/deps.sh: usr/$tool with the libraries beside it. The
			# pid stays. PREFIX is where this file is: the directory can move.
			self=\$(readlink -f -- "\$0")
			prefix=\${self%/*/*}
			LD_LIBRARY_PATH=\$prefix/usr/lib/$triple:\$prefix/lib/$triple
			export LD_LIBRARY_PATH
			exec "\$prefix/usr/$tool" "\$@"
		EOF
		chmod 755 "$work/root/bin/$name"
	done
	local version
	if ! version=$("$work/root/bin/mariadb-backup" --version 2>&1); then
		lack mariadb "what was downloaded does not start here: $version"
		return
	fi
	sed -n 's/.* based on //p' <<<"$version" >"$work/root/.version"
	mv "$work/root" "$root"
	rm -rf "$work"
}

# --- Go modules -------------------------------------------------------------

get_modules() {
	if ! command -v go >/dev/null; then
		lack go "install Go $(sed -n 's/^go //p' go.mod) or newer"
		return
	fi
	local module
	for module in . tools; do
		[[ -e $module/go.mod ]] || continue
		go -C "$module" mod download || lack "Go modules of $module" "go mod download failed"
	done
}

# --- all together -----------------------------------------------------------

files=(scripts/deps.sh go.mod go.sum)
[[ ! -e tools/go.mod ]] || files+=(tools/go.mod tools/go.sum)
fingerprint=$(cat "${files[@]}" | sha256sum)

up_to_date() {
	[[ $(cat "$deps/.stamp" 2>/dev/null) == "$fingerprint" && -z $(absent_packages) ]] &&
		[[ -x ${HA_MYSQLD:-$prefix/bin/mysqld} ]]
}

if [[ ${1:-} == mariadb ]]; then
	exec 9>"$deps/.lock"
	flock 9
	get_mariadb
	((${#missing[@]} == 0)) || exit 1
	say "$(cat "$deps/mariadb/.version") in $deps/mariadb"
	exit 0
fi

up_to_date && exit 0
exec 9>"$deps/.lock"
flock 9 # another make may be at it
up_to_date && exit 0

get_tools
get_mysql
get_modules

if ((${#missing[@]})); then
	say "could not get: ${missing[*]}" >&2
	[[ ${HA_DEPS_OPTIONAL:-} == 1 ]] || exit 1
	exit 0
fi
echo "$fingerprint" >"$deps/.stamp"
if [[ -e $prefix/.version ]]; then say "MySQL $(cat "$prefix/.version") in $prefix"; fi
say "ready"
