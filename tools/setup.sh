#!/bin/sh
# Makes .venv, and installs only what is not there yet. Run through make; calling it again costs nothing.
#
#   tools/setup.sh runtime    what `gateway` needs
#   tools/setup.sh dev        and what the tests and checks import
#   tools/setup.sh test       and the programs that the tests start, with the packages of tests/node
#   tools/setup.sh bench      dev, and what the gateway is measured with and beside
#
# As root it installs missing programs with apt-get. Otherwise it says what is missing and ends with status 1.
set -eu
cd -P "$(dirname "$0")/.."
here=$(pwd)
PATH="$PATH:/usr/sbin:/sbin" # where Debian keeps servers, and not everybody looks

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
may_install() { [ "$(id -u)" = 0 ] && have apt-get; }

# Debian starts and enables services as it installs them. We want the programs only.
apt_install() {
	may_install || fail "missing: $*. Install with: sudo apt-get install $*"
	say "apt-get install $*"
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		trap 'exit 1' HUP INT TERM
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
	else
		policy=
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq || say "apt-get update failed; trying with the lists that are here"
	apt-get install -y -qq --no-install-recommends "$@" >&2 || fail "apt-get could not install $*"
	for package in "$@"; do
		case $package in
		redis-server | nginx | haproxy | caddy) ! have systemctl || systemctl --quiet disable "$package" >/dev/null 2>&1 || true ;;
		esac
	done
	if [ -n "$policy" ]; then
		rm -f "$policy"
		trap - EXIT HUP INT TERM
	fi
}

find_python() {
	if [ -n "${PYTHON:-}" ]; then
		new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or newer"
		command -v "$PYTHON"
		return
	fi
	for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
		if have "$candidate" && new_enough "$candidate"; then
			command -v "$candidate"
			return
		fi
	done
}

make_venv() {
	python=$(find_python)
	if [ -z "$python" ]; then
		if have python3; then
			fail "Python 3.11 or newer is needed; $(command -v python3) is $(python3 -V 2>&1). Name another one: make PYTHON=/path/to/python3.11 …"
		fi
		apt_install python3 python3-venv
		python=$(find_python)
		[ -n "$python" ] || fail "Python 3.11 or newer is needed; the packaged one is $(python3 -V 2>&1)"
	fi
	if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
		case $(readlink -f "$python") in
		/usr/bin/*) apt_install python3-venv ;;
		*) fail "$python has no working venv module" ;;
		esac
	fi
	say "making .venv with $("$python" -V 2>&1)"
	"$python" -m venv --clear .venv || fail "$python could not make .venv"
}

# The stamp of a set holds what it was installed from.
wanted() { cat pyproject.toml constraints.txt | sha256sum; }
# The scripts of a venv name its folder: a moved or copied one is made again.
usable() { grep -qsF "$here/.venv/" .venv/bin/pip && new_enough .venv/bin/python; }
stamped() { usable && [ -f ".venv/stamp-$1" ] && [ "$(cat ".venv/stamp-$1")" = "$(wanted)" ]; }

install() {
	if [ -d .venv ] && [ ! -w .venv ]; then
		fail ".venv belongs to somebody else. Remove it (make clean, as that user) and try again."
	fi
	usable || make_venv
	say "installing $1"
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e "$1" || fail "pip could not install $1"
}

runtime() {
	stamped dev || stamped runtime || {
		install .
		wanted >.venv/stamp-runtime
	}
}

dev() {
	stamped dev || {
		install '.[test]'
		wanted >.venv/stamp-dev
	}
}

programs() {
	missing=
	for program in "$@"; do
		have "$program" && continue
		case $program in
		node) program=nodejs ;; # the one package that is not named like its program
		esac
		missing="$missing $program"
	done
	# shellcheck disable=SC2086 # one word a package
	[ -z "$missing" ] || apt_install $missing
}

# What the tests run in Node.js. Another Node may need other packages: its version is in the stamp.
node_packages() {
	stamp=tests/node/node_modules/.stamp
	node_wanted=$(node --version && cat tests/node/package.json) || fail "node does not run: $(command -v node)"
	[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$node_wanted" ] && return
	say "installing the packages of tests/node"
	npm install --prefix tests/node --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error >&2 || fail "npm could not install the packages of tests/node"
	printf '%s\n' "$node_wanted" >"$stamp"
}

case ${1:-} in
runtime) runtime ;;
dev) dev ;;
test)
	programs redis-server chromium curl jq nginx caddy node npm
	dev
	node_packages
	;;
bench)
	programs redis-server nginx haproxy caddy wrk gcc
	[ -e /usr/include/stdio.h ] || apt_install libc6-dev
	dev
	;;
fuzz)
	dev
	.venv/bin/python -c 'import atheris' 2>/dev/null ||
		.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt atheris ||
		say "atheris cannot be had for $(.venv/bin/python -V): fuzzing goes on without coverage"
	;;
*) fail "usage: tools/setup.sh runtime|dev|test|bench|fuzz" ;;
esac
