# shellcheck shell=bash
# Manages the state folder of a stack. DIR is the folder that the user names. DIR/state is the state folder itself, or a
# link to one that the unprivileged users can reach.

STATE_MARK=.acp-stack

# set_dir DIR
set_dir() {
	[ -n "$1" ] || fail "--dir: the folder's name is empty"
	DIR=$(realpath -m -- "$1")
	STATE=
	if [ -d "$DIR/state/" ] && [ -e "$DIR/state/$STATE_MARK" ]; then
		[ -O "$DIR/state/$STATE_MARK" ] ||
			fail "$DIR/state belongs to $(stat -L -c %U "$DIR/state/"); run this as that user, or give another --dir"
		set_state "$(realpath "$DIR/state")"
	fi
}

set_state() {
	STATE=$1
	RUN=$STATE/run
	LOG=$STATE/log
	ETC=$STATE/etc
	SECRETS=$STATE/secrets
	PREFIX=$STATE/prefix
	SBIN=$PREFIX/sbin
	PGDATA=$STATE/postgres
	PG_SOCKETS=$RUN/pg
	RESPONDER_SOCKET=$RUN/acp/acp.sock
	RESPONDER_LOG=$LOG/responder.log
	export PGDATA
}

need_state() {
	[ -n "$STATE" ] || fail "$DIR: no stack was started there"
}

# Prints the folder that DIR/state links to if the state cannot be in DIR. Each DIR has its own.
outside_state() {
	printf '/var/tmp/acp-demo-%s' "$(printf '%s' "$DIR" | sha256sum | cut -c1-10)"
}

# The path of a socket has at most 107 bytes, an environment value of mod_fcgid at most 127, and configuration files
# have different quoting rules. So DIR is used only if its path is short and plain, and every user can reach it.
state_fits_in_dir() {
	local user
	case $DIR in
	*[!A-Za-z0-9._/+-]*) return 1 ;;
	esac
	[ "${#DIR}" -le 70 ] || return 1
	for user in "$PG_USER" "$WEB_USER"; do
		as "$user" test -x "$DIR" || return 1
	done
}

make_state() {
	local place
	mkdir -p "$DIR" || fail "$DIR: cannot make this folder"
	[ -w "$DIR" ] || fail "$DIR: $(id -un) may not write there; give another --dir"
	if [ -z "$STATE" ]; then
		place=$DIR/state
		if [ -e "$place" ] && [ ! -L "$place" ]; then
			rmdir "$place" 2>/dev/null || fail "$place: exists and was not made by this program; remove it or give another --dir"
		fi
		rm -f "$place"
		if ! state_fits_in_dir; then
			place=$(outside_state)
			clear_left_over "$place"
			ln -s "$place" "$DIR/state"
		fi
		mkdir -m 0755 "$place" || fail "$place: cannot make this folder"
		printf '%s\n' "$DIR" >"$place/$STATE_MARK"
		set_state "$place"
	fi
	make_dir "$STATE" 755 "$ME"
	make_dir "$RUN" 755 "$ME"
	make_dir "$LOG" 755 "$ME"
	make_dir "$ETC" 755 "$ME"
	make_dir "$SECRETS" 700 "$ME"
	make_dir "$PG_SOCKETS" 755 "$PG_USER"
	make_dir "$RUN/acp" 750 "$WEB_USER"
	make_dir "$RUN/web" 750 "$WEB_USER"
	make_dir "$STATE/journal" 700 "$WEB_USER"
}

# Clears the state folder in /var/tmp of a DIR that was removed, perhaps while its stack ran.
clear_left_over() {
	[ -e "$1" ] || [ -L "$1" ] || return 0
	[ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ] && [ "$(cat "$1/$STATE_MARK" 2>/dev/null)" = "$DIR" ] ||
		fail "$1: exists, but is not the left-over state of $DIR; remove it or give another --dir"
	say "Removing the state of an earlier $DIR from $1"
	set_state "$1"
	stop_everything
	remove_state
}

remove_state() {
	[ -n "$STATE" ] && [ -O "$STATE/$STATE_MARK" ] || return 0
	rm -rf -- "$STATE"
	if [ -L "$DIR/state" ]; then
		rm -f "$DIR/state"
	fi
	STATE=
}

# Allows one command at a time for each DIR.
lock_dir() {
	mkdir -p "$DIR" || fail "$DIR: cannot make this folder"
	exec 9>"$DIR/.lock" || fail "$DIR/.lock: cannot write; it belongs to $(stat -c %U "$DIR/.lock" 2>/dev/null)"
	flock -w 120 9 || fail "another stack or demo has been working on $DIR for two minutes"
	# Another run may have made the state folder while this one waited for the lock.
	set_dir "$DIR"
}

# secret NAME PREFIX: prints a secret, and makes it the first time.
secret() {
	local file=$SECRETS/$1
	if [ ! -s "$file" ]; then
		(umask 077 && printf '%s%s\n' "$2" "$(openssl rand -hex 24)" >"$file")
	fi
	cat "$file"
}

remember() {
	printf '%s\n' "$2" >"$STATE/$1"
}

remembered() {
	cat "$STATE/$1" 2>/dev/null || true
}
