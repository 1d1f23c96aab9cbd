# shellcheck shell=bash
# Functions shared by deploy/demo, deploy/check and deploy/lib/stack: messages, users, processes, waiting.

PROGRAM=${PROGRAM:-$(basename "$0")}
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# Web servers live in sbin, which is not on every user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
umask 022

say() {
	printf '%s\n' "$*" >&2
}

fail() {
	printf '%s: %s\n' "$PROGRAM" "$*" >&2
	exit 1
}

is_root() {
	[ "$(id -u)" -eq 0 ]
}

# PostgreSQL refuses to run as root, and a web server should not. Other users run everything as themselves.
choose_users() {
	ME=$(id -un)
	PG_USER=$ME
	WEB_USER=$ME
	if is_root; then
		PG_USER=postgres
		WEB_USER=www-data
		getent passwd "$PG_USER" >/dev/null || fail "the system user $PG_USER is missing: apt-get install postgresql"
		getent passwd "$WEB_USER" >/dev/null || fail "the system user $WEB_USER is missing: apt-get install base-passwd"
	fi
	WEB_GROUP=$(id -gn "$WEB_USER")
}

# as USER COMMAND…: runs it as that user, without a login or a PAM session.
as() {
	local user=$1
	shift
	if [ "$user" = "$(id -un)" ]; then
		"$@"
	else
		HOME=/ setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups "$@"
	fi
}

# make_dir PATH MODE OWNER
make_dir() {
	mkdir -p "$1"
	chmod "$2" "$1"
	if is_root; then
		chown "$3:$(id -g "$3")" "$1"
	fi
}

# make_log FILE OWNER: makes a log that the program can still write after it has dropped root privileges.
make_log() {
	touch "$1"
	chmod 640 "$1"
	if is_root; then
		chown "$2:$(id -g "$2")" "$1"
	fi
}

# write_file PATH MODE GROUP <text: replaces the file atomically, readable by the group. True if it changed.
write_file() {
	local new
	new=$(mktemp "$1.XXXXXX")
	cat >"$new"
	chmod "$2" "$new"
	if is_root; then
		chgrp "$3" "$new"
	fi
	if cmp -s "$new" "$1"; then
		rm -f "$new"
		return 1
	fi
	mv -f "$new" "$1"
}

# quoted VALUE: prints it in single quotes for a shell.
quoted() {
	local escaped=${1//\'/\'\\\'\'}
	printf "'%s'" "$escaped"
}

# env_line NAME VALUE: prints a line of a file for a shell to source. Programs that this shell starts see the variable
# too.
env_line() {
	printf 'export %s=%s\n' "$1" "$(quoted "$2")"
}

url_encoded_path() {
	local text=$1 out='' char
	while [ -n "$text" ]; do
		char=${text:0:1}
		text=${text:1}
		case $char in
		[A-Za-z0-9._~-]) out+=$char ;;
		*) out+=$(printf '%s' "$char" | od -An -tx1 | tr 'a-f' 'A-F' | sed 's/ /%/g' | tr -d '\n') ;;
		esac
	done
	printf '%s' "$out"
}

# process_started PID: prints its start time in clock ticks since boot. PID and start time together identify a process
# uniquely. False for a zombie.
process_started() {
	local stat
	local -a field
	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	read -r -a field <<<"${stat##*) }"
	[ "${field[0]}" != Z ] && printf '%s' "${field[19]}"
}

# record_pid FILE PID: stores the PID and start time of a process that was just started.
record_pid() {
	local since
	since=$(process_started "$2") || return 1
	printf '%s %s\n' "$2" "$since" >"$1"
}

# recorded_pid FILE: prints the recorded PID if the same process still runs, and not another one with this PID.
recorded_pid() {
	local pid since
	[ -r "$1" ] && read -r pid since <"$1" || return 1
	[[ $pid =~ ^[0-9]+$ ]] && [ "$(process_started "$pid")" = "$since" ] && printf '%s\n' "$pid"
}

# stop_process PID SECONDS: sends SIGTERM, and SIGKILL if the process still runs after this time.
stop_process() {
	local pid=$1 since deadline=$((SECONDS + $2))
	since=$(process_started "$pid") || return 0
	kill -TERM "$pid" 2>/dev/null || return 0
	while [ "$(process_started "$pid")" = "$since" ]; do
		if [ "$SECONDS" -ge "$deadline" ]; then
			say "process $pid did not end within $2 s of SIGTERM: killed"
			kill -KILL "$pid" 2>/dev/null || true
			sleep 0.2
			return 0
		fi
		sleep 0.05
	done
}

# start_daemon PIDFILE USER LOG COMMAND…: starts it in a separate session, which Ctrl-C in the terminal does not reach.
start_daemon() {
	local pidfile=$1 user=$2 log=$3
	local -a become=()
	shift 3
	if [ "$user" != "$(id -un)" ]; then
		become=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups)
	fi
	# The daemon must not inherit the lock of this run (descriptor 9).
	setsid "${become[@]}" "$@" </dev/null >>"$log" 2>&1 9>&- &
	record_pid "$pidfile" "$!" || {
		show_tail "$log"
		fail "$1 ended at once"
	}
}

# wait_for SECONDS COMMAND…: waits until the command succeeds. False if it did not succeed in this time.
wait_for() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@"; do
		[ "$SECONDS" -lt "$deadline" ] || return 1
		sleep 0.1
	done
}

# show_tail FILE [LINES]
show_tail() {
	if [ -s "$1" ]; then
		say "--- last lines of $1"
		tail -n "${2:-20}" "$1" >&2
		say "---"
	else
		say "--- $1 is empty"
	fi
}

# Settings of the caller's session (. var/demo/env) must not reach the programs that are started here.
forget_acp_environment() {
	local name
	for name in ${!ACP_@}; do
		unset "$name"
	done
}
