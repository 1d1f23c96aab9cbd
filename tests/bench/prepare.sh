# shellcheck shell=bash
# Shared by run and growth: Debian packages, the build, and the do-nothing responder.

# shellcheck source=deploy/lib/common.sh
. "$HERE/../../deploy/lib/common.sh"
# shellcheck source=deploy/lib/packages.sh
. "$REPO/deploy/lib/packages.sh"
# shellcheck source=deploy/lib/build.sh
. "$REPO/deploy/lib/build.sh"

# shellcheck disable=SC2034 # the scripts that source this file read PREPARED
# prepare OPTION…: handles --dir, --install and --no-packages, builds what they need, and sets PREPARED to the arguments
# of the Python program.
prepare() {
	local dir=$REPO/var/bench install='' packages=yes
	local -a rest=()
	while [ $# -gt 0 ]; do
		case $1 in
		--dir | --install)
			[ $# -ge 2 ] || fail "$1 needs a value"
			printf -v "${1#--}" '%s' "$2"
			shift
			;;
		--no-packages) packages='' ;;
		--help | -h)
			PREPARED=(--help)
			return 0
			;;
		*) rest+=("$1") ;;
		esac
		shift
	done
	dir=$(realpath -m -- "$dir")
	mkdir -p "$dir/log"
	[ -z "$packages" ] || install_packages "$dir/log/packages.log"
	forget_acp_environment
	if [ -z "$install" ]; then
		install=$dir/prefix
		build_tree build-bench "$dir/log/build.log"
		rm -rf -- "$install"
		install_tree build-bench "$install" "$dir/log/install.log"
	fi
	build_nothing "$dir"
	PREPARED=(--dir "$dir" --install "$(realpath -m -- "$install")" --nothing "$dir/nothing" "${rest[@]}")
}

# Without root the packages may still be there under other names. A missing program reports itself later.
install_packages() {
	ensure_packages "$1" "${BUILD_PACKAGES[@]}" "${RUN_PACKAGES[@]}" "${LIGHTTPD_PACKAGES[@]}" "${APACHE_PACKAGES[@]}" \
		"${BENCH_PACKAGES[@]}" || say "Continuing with the installed packages."
}

# Compiles the one source file like the makefile, so that it also works with --install.
build_nothing() {
	local -a flags
	read -r -a flags <<<"$(pkg-config --libs fcgi 2>/dev/null || echo -lfcgi)"
	gcc -std=gnu11 -O2 -D_GNU_SOURCE -o "$1/nothing" "$HERE/nothing.c" "${flags[@]}" -lpthread ||
		fail "tests/bench/nothing.c could not be compiled; it needs gcc and libfcgi-dev"
}
