# shellcheck shell=bash
# Finds missing Debian packages, and installs them without starting services of the machine.

BUILD_PACKAGES=(gcc make libc6-dev autoconf automake pkg-config libfcgi-dev libjson-c-dev libcurl4-openssl-dev libpq-dev
	libssl-dev libcunit1-dev)
RUN_PACKAGES=(postgresql curl jq openssl procps python3)
LIGHTTPD_PACKAGES=(lighttpd)
APACHE_PACKAGES=(apache2 libapache2-mod-fcgid)
NGINX_PACKAGES=(nginx)
CADDY_PACKAGES=(caddy)
TEST_PACKAGES=(clang libclang-rt-14-dev pgtap libtap-parser-sourcehandler-pgtap-perl python3 python3-pytest
	python3-pytest-xdist libfcgi-bin mandoc xz-utils
	shellcheck universal-ctags prometheus pgbouncer chromium cppcheck clang-tidy)
PACKAGE_PACKAGES=(debhelper dpkg-dev fakeroot lintian debootstrap systemd-container)
BENCH_PACKAGES=(wrk nginx)
# For parts that run only if they are named.
ANALYSIS_PACKAGES=(clang-tools valgrind gcovr)

POLICY=/usr/sbin/policy-rc.d
POLICY_MARK='# acp-fcgi: temporary, keeps packages from starting their services; remove it if no installation runs'
CREATECLUSTER=/etc/postgresql-common/createcluster.conf

have_package() {
	case $1 in
	postgresql) newest_postgres_bin >/dev/null && return 0 ;;
	libcurl4-openssl-dev) compgen -G '/usr/include/*/curl/curl.h' >/dev/null && return 0 ;;
	esac
	[ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || command -v "$1" >/dev/null
}

# Prints the folder with initdb, pg_ctl and postgres of the newest version.
newest_postgres_bin() {
	local found
	found=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1)
	[ -n "$found" ] && dirname "$found"
}

missing_packages() {
	local name
	for name in "$@"; do
		have_package "$name" || printf '%s\n' "$name"
	done
}

# ensure_packages LOG NAME… [-- NAME…]: as root, installs the missing packages. Otherwise prints the command for root, and
# returns 1. Those after -- are installed in the background; await_packages waits for them.
ensure_packages() {
	local log=$1
	local -a missing now=()
	shift
	while [ $# -gt 0 ] && [ "$1" != -- ]; do
		now+=("$1")
		shift
	done
	[ $# -eq 0 ] || shift
	if ! command -v dpkg-query >/dev/null; then
		say "This is not Debian; install the contents of these Debian packages yourself: ${now[*]} $*"
		return 0
	fi
	mapfile -t missing < <(missing_packages "${now[@]}" "$@")
	if [ "${#missing[@]}" -eq 0 ]; then
		return 0
	fi
	if ! is_root; then
		say "These Debian packages are missing; let root install them, then run this again:"
		say
		say "    apt-get install --no-install-recommends ${missing[*]}"
		say
		say "(The packages of PostgreSQL and of web servers start services; $PROGRAM does not need these services.)"
		return 1
	fi
	say "Installing ${#missing[@]} Debian packages; services that come with them stay stopped and disabled (log: $log)"
	printf 'Installing %s\n' "${missing[*]}" >>"$log"
	PACKAGES_LOG=$log
	update_packages >>"$log" 2>&1 </dev/null || packages_failed
	mapfile -t missing < <(missing_packages "${now[@]}")
	(install_quietly "${missing[@]}") >>"$log" 2>&1 </dev/null || packages_failed
	mapfile -t missing < <(missing_packages "$@")
	(install_quietly "${missing[@]}") >>"$log" 2>&1 </dev/null &
	PACKAGES_JOB=$!
	[ $# -gt 0 ] || await_packages
}

PACKAGES_JOB=

# Waits for the packages that ensure_packages installs in the background.
await_packages() {
	[ -z "$PACKAGES_JOB" ] || wait "$PACKAGES_JOB" || packages_failed
	PACKAGES_JOB=
}

packages_failed() {
	show_tail "$PACKAGES_LOG"
	fail "apt-get could not install the packages (log: $PACKAGES_LOG)"
}

update_packages() {
	DEBIAN_FRONTEND=noninteractive apt-get update
}

apt_install() {
	DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@"
}

# Runs in a subshell, which always undoes the temporary changes at its end.
install_quietly() {
	set -e
	local name
	[ $# -gt 0 ] || return 0
	trap restore_service_policy EXIT
	trap 'exit 130' INT TERM
	forbid_service_starts
	for name in "$@"; do
		if [ "$name" = postgresql ]; then
			forbid_main_cluster
		fi
	done
	apt_install "$@"
	disable_new_services "$@"
}

# Packages run this script before they start a service. An existing script of the machine is not changed.
forbid_service_starts() {
	if [ ! -e "$POLICY" ] || grep -qxF "$POLICY_MARK" "$POLICY"; then
		printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
		chmod 755 "$POLICY"
	fi
}

# The package postgresql makes a cluster "main" unless this file forbids it. The file comes with postgresql-common.
forbid_main_cluster() {
	apt_install postgresql-common
	if [ ! -e "$CREATECLUSTER.acp-saved" ]; then
		cp -p "$CREATECLUSTER" "$CREATECLUSTER.acp-saved"
	fi
	sed -i '/^[[:space:]]*create_main_cluster[[:space:]]*=/d' "$CREATECLUSTER"
	echo 'create_main_cluster = false' >>"$CREATECLUSTER"
}

restore_service_policy() {
	if [ -e "$POLICY" ] && grep -qxF "$POLICY_MARK" "$POLICY"; then
		rm -f "$POLICY"
	fi
	if [ -e "$CREATECLUSTER.acp-saved" ]; then
		mv -f "$CREATECLUSTER.acp-saved" "$CREATECLUSTER"
	fi
}

# A service that was installed as a dependency would start at the next boot and take port 80.
disable_new_services() {
	local name
	for name in "$@"; do
		case $name in
		lighttpd | apache2 | nginx | caddy | postgresql | prometheus | pgbouncer)
			if command -v systemctl >/dev/null; then
				systemctl disable "$name" || true
			elif command -v update-rc.d >/dev/null; then
				update-rc.d "$name" disable || true
			fi
			;;
		esac
	done
}
