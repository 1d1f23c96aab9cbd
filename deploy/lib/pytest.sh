# shellcheck shell=bash
# Runs tests/e2e with pytest.

E2E=$REPO/tests/e2e

# find_pytest: sets PYTEST, the command. Debian's packages are installed for its own python3, which may not be the first
# on PATH.
find_pytest() {
	local python
	for python in python3 /usr/bin/python3; do
		if "$python" -c 'import pytest, xdist' 2>/dev/null; then
			PYTEST=("$python" -B -m pytest)
			return 0
		fi
	done
	fail "pytest or its xdist is missing: apt-get install python3-pytest python3-pytest-xdist"
}

# Prints how many tests run at the same time, each worker with a separate stack. Most tests wait now and then.
e2e_workers() {
	local n
	n=$(nproc)
	echo $((n > 3 ? 4 : n + 1))
}

# tests_named AREA[.TEST]…: prints the names that pytest uses for them.
tests_named() {
	local name
	for name in "$@"; do
		case $name in
		*.*) printf '%s/test_%s.py::test_%s\n' "$E2E" "${name%%.*}" "${name#*.}" ;;
		*) printf '%s/test_%s.py\n' "$E2E" "$name" ;;
		esac
	done
}

# Prints a free port of 127.0.0.1.
free_port() {
	PYTHONPATH=$E2E python3 -B -c 'from stack import free_port; print(free_port())'
}
