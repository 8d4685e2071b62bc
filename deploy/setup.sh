# shellcheck shell=bash
# What `tests/run` and `deploy/demo` share: a Python environment in `.venv` and the programs of the
# distribution that they need. Sourced, not run; the caller sets -euo pipefail.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"
PATH="$venv/bin:$PATH"
export PATH PIP_DISABLE_PIP_VERSION_CHECK=1

say() { if [ -t 1 ]; then printf '\033[1m==>\033[0m %s\n' "$*"; else printf '==> %s\n' "$*"; fi; }
die() { printf '%s\n' "$@" >&2; exit 1; }

# Run as root: as we are, through sudo without a password, or through sudo where somebody can type.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then sudo "$@"
  else return 1
  fi
}

# Installs Debian packages. A package that brings a service must not start it, now or at the next
# boot: a Prometheus that nobody asked for would listen on every interface.
apt_install() {
  command -v apt-get >/dev/null && as_root true || return 1
  say "installing from the distribution: $*"
  local policy=/usr/sbin/policy-rc.d wrote=no status=0 log
  log=$(mktemp)
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod +x "$policy" && wrote=yes
  fi
  local get=(env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -y -o DPkg::Lock::Timeout=300)
  { as_root "${get[@]}" install --no-install-recommends "$@" ||
      { as_root "${get[@]}" update && as_root "${get[@]}" install --no-install-recommends "$@"; }
  } </dev/null >"$log" 2>&1 || status=$?
  [ "$wrote" = yes ] && as_root rm -f "$policy"
  [ "$status" = 0 ] || tail -n 15 "$log" >&2
  rm -f "$log"
  [ "$status" = 0 ] || return 1
  if [ -d /run/systemd/system ]; then
    local package
    for package in "$@"; do
      as_root systemctl disable --now "$package.service" >/dev/null 2>&1 || true  # most have none
    done
  fi
}

# Without root a package can still be unpacked: its program goes beside the environment's own.
unpack() {
  local package=$1 program folder="$venv/opt/$1"
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  say "no root here: unpacking the distribution's $package beside the environment"
  mkdir -p "$folder"
  (cd "$folder" && apt-get -qq download "$package" && dpkg-deb -x "$package"_*.deb . && rm -f ./*.deb) \
    </dev/null || return 1
  for program in "$folder"/usr/bin/*; do ln -sf "$program" "$venv/bin/"; done
}

# have PACKAGE PROGRAM...: make sure that the programs are there, whichever way this machine allows.
have() {
  local package=$1 program; shift
  for program in "$@"; do
    command -v "$program" >/dev/null && continue
    apt_install "$package" || unpack "$package" || return 1
    command -v "$program" >/dev/null || return 1
  done
}

need_prometheus() {
  have prometheus prometheus promtool || die \
    "no 'prometheus' and 'promtool' here, and this machine lets me install neither. Three ways to get them:" \
    "  1. Debian, Ubuntu:  sudo apt-get install prometheus" \
    "  2. elsewhere:       the package of your system (brew install prometheus, dnf install prometheus, ...)" \
    "  3. anywhere:        a release from https://prometheus.io/download/, unpacked, its folder put on the PATH" \
    "Then run this again."
}

# The newest suitable Python that is here.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if command -v "$name" >/dev/null &&
      "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"; return
    fi
  done
  return 1
}

make_venv() {
  local python
  if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  python=$(find_python) || { apt_install python3 && python=$(find_python); } ||
    die "Python 3.11 or newer is needed, and this machine's python3 is older or missing."
  say "making an environment in $venv with $("$python" --version)"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then  # Debian ships these apart
    apt_install python3-venv || die "$python has no venv module: sudo apt-get install python3-venv"
  fi
  rm -rf "$venv"
  "$python" -m venv "$venv"
}

# install_project run|test: the project, editable, and for `test` that dependency group, all at the
# versions of constraints.txt. A stamp makes the next time take no time; it goes when one of the
# files changes.
install_project() {
  local what=$1 stamp sum
  make_venv
  sum=$(cat "$root/pyproject.toml" "$root/deploy/constraints.txt" | cksum | tr ' ' -)
  stamp="$venv/.installed-$what-$sum"
  if [ -e "$stamp" ] || [ -e "$venv/.installed-test-$sum" ]; then return; fi
  say "installing the project (to $what it); this may take a minute or two"
  local pip=("$venv/bin/python" -m pip install --quiet --constraint "$root/deploy/constraints.txt")
  "${pip[@]}" --upgrade pip  # --group is known since 25.1
  local group=()
  [ "$what" = run ] || group=(--group "$root/pyproject.toml:$what")
  "${pip[@]}" --editable "$root" ${group[@]+"${group[@]}"}
  rm -f "$venv/.installed-$what-"*
  touch "$stamp"
}
