# shellcheck shell=bash
# Builds and installs the programs, with the output in a log and one line of progress.

# logged LOG TITLE COMMAND…: runs the command quietly. If it fails, shows the end of the log and returns 1.
logged() {
	local log=$1 what=$2 began=$SECONDS
	shift 2
	printf '%s … ' "$what" >&2
	if "$@" >>"$log" 2>&1 </dev/null; then
		printf 'done (%d s)\n' "$((SECONDS - began))" >&2
		return 0
	fi
	printf 'failed after %d s\n' "$((SECONDS - began))" >&2
	show_tail "$log" 40
	return 1
}

# Refuses paths for which the messages of Automake and configure name neither the cause nor a remedy.
check_source_path() {
	case $REPO in
	*[!A-Za-z0-9._/+@:,=-]*) fail "$REPO: configure does not accept a character in this path; move the source folder" ;;
	esac
	[ -w "$REPO" ] || fail "$REPO: $(id -un) may not write here; build as the owner of the folder"
}

ensure_configure() {
	# "rm -rf build-*" also removes build-aux.
	if [ ! -x "$REPO/configure" ] || [ "$REPO/configure.ac" -nt "$REPO/configure" ] || [ ! -e "$REPO/Makefile.in" ] ||
		[ ! -e "$REPO/build-aux/install-sh" ]; then
		logged "$1" "Making configure" "$REPO/autogen.sh"
	fi
}

# build_tree NAME LOG CONFIGURE-ARGUMENT…: builds in $REPO/NAME, and configures it the first time.
build_tree() {
	local name=$1 log=$2
	shift 2
	check_source_path
	mkdir -p "$REPO/$name" "$(dirname "$log")"
	[ -w "$REPO/$name" ] || fail "$REPO/$name: belongs to $(stat -c %U "$REPO/$name"); $(id -un) may not write there"
	: >"$log"
	if [ ! -f "$REPO/$name/Makefile" ]; then
		ensure_configure "$log" || return 1
		logged "$log" "Configuring in $name/" in_dir "$REPO/$name" "$(realpath --relative-to="$REPO/$name" "$REPO")/configure" "$@" || return 1
	fi
	logged "$log" "Building in $name/" make -C "$REPO/$name" -j"$(nproc)"
}

in_dir() {
	cd "$1" || return 1
	shift
	"$@"
}

# install_tree NAME PREFIX LOG
install_tree() {
	make -C "$REPO/$1" install prefix="$2" sysconfdir="$2/etc" >>"$3" 2>&1 </dev/null || {
		show_tail "$3" 40
		return 1
	}
}

# copy_source TO: copies the source files, without files that builds, demos and packaging made among them.
copy_source() {
	mkdir -p "$1"
	tar -C "$REPO" -c --exclude-vcs --exclude='./build*' --exclude=./var --exclude=./autom4te.cache --exclude=./aclocal.m4 \
		--exclude=./configure --exclude='./configure~' --exclude=./Makefile.in --exclude=./config.h.in --exclude='*.o' \
		--exclude='*.a' --exclude=__pycache__ . | tar -C "$1" -x --no-same-owner
}
