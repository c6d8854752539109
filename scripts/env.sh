# Shared by the scripts beside it, which source it: makes the development environment in .venv and keeps it fresh.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
env=$root/.venv
stamp=$env/made-from # written last, so an environment without it was interrupted half-way
log=$env/setup.log
script=${0##*/}

say() { printf '%s: %s\n' "$script" "$*"; }

fail() {
  say "$*" >&2
  exit 1
}

# Set python and version to the first interpreter that is new enough. The path is that of the base interpreter:
# python3 may be the one in .venv, which cannot make its own successor.
find_python() {
  local candidate found major minor seen="" candidates=(python3 python3.11 python3.12 python3.13)
  local about='import sys; print("%d.%d.%d" % sys.version_info[:3], getattr(sys, "_base_executable", sys.executable))'
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    found=$("$candidate" -c "$about" 2>/dev/null) || continue
    read -r version python <<<"$found"
    IFS=. read -r major minor _ <<<"$version"
    if ((major > 3 || (major == 3 && minor >= 11))); then return; fi
    seen+="$candidate is $version, "
  done
  seen=${seen:-"none found, "}
  fail "Python 3.11 or newer is needed (${seen%, }); install it, or name one: PYTHON=/path/to/python ./scripts/$script"
}

# What the environment stands on; it must be made anew when this changes (its scripts hold the path).
foundation() { printf 'Python %s in %s\n' "$version" "$env"; }

# What is installed in it; it is brought up to date in place when this changes.
requirements() { cat "$root/pyproject.toml" "$root/constraints.txt" | cksum; }

ready() { [[ -x $env/bin/python && -f $stamp && $(<"$stamp") == "$(foundation && requirements)" ]]; }

# Run a step of the set-up quietly; when it fails, say in one line why and what to check.
attempt() {
  local step=$1 output reason
  shift
  if output=$("$@" 2>&1 | tee -a "$log"); then return; fi
  case $output in
    *"No space left on device"* | *"Disk quota exceeded"*)
      reason="the disk is full; free about 3 GB in $root and in ${TMPDIR:-/tmp}" ;;
    *"Read-only file system"* | *"Permission denied"*)
      reason="the disk cannot be written; check the rights to $root and ${TMPDIR:-/tmp}" ;;
    *"connection broken by"* | *ConnectionPool* | *"timed out"* | *"HTTP error"*)
      reason="the package index cannot be reached; check the network, the proxy and pip's index settings" ;;
    *"No matching distribution found"*)
      reason="the package index lacks a version for Python $version; check pip's index settings, or set PYTHON" ;;
    *ensurepip*)
      reason="$python lacks the venv module; install it (Debian: apt-get install python3-venv)" ;;
    *) reason="$(tail -n 1 <<<"$output")" ;;
  esac
  fail "cannot $step: $reason (log: $log)"
}

install() {
  cd "$root" && "$env/bin/python" -m pip install --no-input --disable-pip-version-check -c constraints.txt -e '.[dev]'
}

make_environment() {
  if [[ ! -x $env/bin/python || ! -f $stamp || $(head -n 1 "$stamp") != "$(foundation)" ]]; then
    say "making the environment in .venv with Python $version"
    { rm -rf "$env" && mkdir "$env"; } 2>/dev/null || fail "cannot make $env: check the disk, its space and its rights"
    attempt "make an environment" "$python" -m venv "$env"
  else
    foundation >"$stamp" # an update that fails, for want of a network perhaps, is tried again and costs no environment
  fi
  say "installing the packages of constraints.txt (minutes the first time; follow it in .venv/setup.log)"
  attempt "install the packages" install
  { foundation && requirements; } >"$stamp"
}

# Make .venv, or bring it up to date, unless it is ready; two scripts at once take turns.
ensure_environment() {
  find_python
  if ready; then return; fi
  (
    if command -v flock >/dev/null && ! flock -n 9; then
      say "waiting for another set-up to end"
      flock 9
    fi
    ready || make_environment
  ) 9<"$root"
}
