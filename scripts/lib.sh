# Shared by every script here: places, messages, clean-up, mounts. Sourced, never run.
# shellcheck shell=bash disable=SC2034

ICECACHE_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ICECACHE_CACHE=${ICECACHE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/icecache}
ICECACHE_TOOLS=$ICECACHE_CACHE/tools
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$ICECACHE_CACHE/target}
export ICECACHE_ROOT ICECACHE_CACHE ICECACHE_TOOLS CARGO_TARGET_DIR
export PATH=$ICECACHE_TOOLS/bin:$PATH:/usr/sbin:/sbin

# Settings of the person at the keyboard are not those of a test: only what the scripts themselves know stays.
for setting in "${!ICECACHE_@}" S3_BUCKET S3_PREFIX; do
  case $setting in
    ICECACHE_ROOT | ICECACHE_CACHE | ICECACHE_TOOLS | ICECACHE_BIN | ICECACHE_KEEP | ICECACHE_LONG | ICECACHE_SEED) ;;
    ICECACHE_JOBS | ICECACHE_S3_RUN | ICECACHE_TEST_*) ;;
    *) unset "$setting" ;;
  esac
done
export ICECACHE_CONFIG=/dev/null

# rustup writes this file; a shell that was open before rustup ran has not read it yet.
if ! command -v cargo >/dev/null 2>&1 && [ -r "${HOME:-}/.cargo/env" ]; then
  # shellcheck disable=SC1091
  . "$HOME/.cargo/env"
fi

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' dim='' green='' red='' plain=''
fi

# Commentary goes to stderr, so that stdout stays what a script is asked for.
note() { printf '%s\n' "${dim}$*${plain}" >&2; }
warn() { printf '%s\n' "${red}$*${plain}" >&2; }
die() { warn "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# seconds_since MICROSECONDS: the time since now_us, with two decimals.
now_us() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }
seconds_since() {
  local us=$(($(now_us) - $1))
  printf '%d.%02d' $((us / 1000000)) $((us % 1000000 / 10000))
}

# free_port: a loopback port nobody listens on now. Below the range that the kernel hands out by itself.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((18000 + RANDOM % 10000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s\n' "$port"; return; }
  done
  die "no free loopback port found"
}

# ---- what must not outlive the script ---------------------------------------------------------------------
# Only what is recorded here is ever removed: exact mount points, exact processes, the one work directory.
owned_mounts=()
owned_pids=()
owned_dirs=()
owned_servers=()

# The start time makes a process number unmistakable: numbers are used again.
pid_identity() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- "$1" $stat
  [ "$2" != Z ] || return 1
  printf '%s:%s\n' "$1" "${21}"
}
own_pid() {
  local id
  id=$(pid_identity "$1") && owned_pids+=("$id")
  return 0
}
still_runs() { [ "$(pid_identity "${1%%:*}" 2>/dev/null)" = "$1" ]; }

is_mounted() { awk -v dir="$1" '$5 == dir { found = 1 } END { exit !found }' /proc/self/mountinfo; }

# detach DIR: take a mount away even if its daemon is dead; the lazy form is the last resort.
detach() {
  local dir=$1
  is_mounted "$dir" || return 0
  fusermount3 -u -q "$dir" 2>/dev/null || umount "$dir" 2>/dev/null || fusermount3 -u -z -q "$dir" 2>/dev/null \
    || umount -l "$dir" 2>/dev/null || true
  ! is_mounted "$dir"
}

# stop_pid IDENTITY: ask, wait at most ten seconds, then insist.
stop_pid() {
  local id=$1 pid=${1%%:*}
  still_runs "$id" || return 0
  kill -TERM "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    still_runs "$id" || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
}

clean_up() {
  local status=$? i
  trap - EXIT
  trap '' INT TERM HUP   # a second signal must not leave half of it behind; SIGKILL follows for the impatient
  set +e
  for ((i = ${#owned_mounts[@]} - 1; i >= 0; i--)); do
    detach "${owned_mounts[i]}" || warn "still mounted: ${owned_mounts[i]}"
  done
  for ((i = ${#owned_servers[@]} - 1; i >= 0; i--)); do
    "$ICECACHE_ROOT/scripts/s3server" stop "${owned_servers[i]}" >/dev/null 2>&1
  done
  for ((i = ${#owned_pids[@]} - 1; i >= 0; i--)); do stop_pid "${owned_pids[i]}"; done
  if [ -n "${ICECACHE_KEEP:-}" ]; then
    [ ${#owned_dirs[@]} -eq 0 ] || note "kept: ${owned_dirs[*]}"
  else
    for i in "${owned_dirs[@]}"; do
      # --one-file-system: should a mount have survived, its content is not ours to remove.
      rm -rf --one-file-system -- "$i" 2>/dev/null || true
    done
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# work_dir NAME: sets $work to a new directory on a real disk (/tmp may be memory), removed at the end.
# Short, because the address of a socket has room for 107 bytes of path.
work_dir() {
  work=$(mktemp -d "${ICECACHE_TEST_TMP:-/var/tmp}/ic-$1.XXXXXX")
  chmod 755 "$work"
  owned_dirs+=("$work")
}

# ---- the program ------------------------------------------------------------------------------------------
# ICECACHE_BIN names a program that is built already; otherwise the one of profile ci is built when it is stale.
need_icecache() {
  if [ -z "${ICECACHE_BIN:-}" ]; then
    note "building icecache (profile ci, into $CARGO_TARGET_DIR)"
    # Benchmarks set ICECACHE_BUILD to measure optimised code of our own, too.
    # shellcheck disable=SC2086
    (cd "$ICECACHE_ROOT" && cargo build --locked --profile ci ${ICECACHE_BUILD:-} --workspace --bins --examples >&2) || die "the build failed"
    ICECACHE_BIN=$CARGO_TARGET_DIR/ci/icecache
    export ICECACHE_BIN
  fi
  [ -x "$ICECACHE_BIN" ] || die "not a program: $ICECACHE_BIN"
}

# json_field NAME: the value of a top-level field of the JSON on stdin; enough for `status --json`.
json_field() {
  tr -d '\n' | sed -n "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"\{0,1\}\([^\",}]*\).*/\1/p" | head -n 1 | sed 's/[[:space:]]*$//'
}

# mount_start NAME [OPTION...]: mounts $work/NAME/dir with an embedded remote beside it.
# Sets MNT (the mount), REMOTE (its URL) and DAEMON (pid). Usable on return.
mount_start() {
  local name=$1 base=$work/$1
  shift
  mkdir -p "$base/dir" "$base/remote" "$base/state"
  MNT=$base/dir
  REMOTE=file://$base/remote
  owned_mounts+=("$MNT")
  timeout -k 5 60 "$ICECACHE_BIN" mount "$MNT" --remote "$REMOTE" --name "$name" \
    --state-dir "$base/state" "$@" >&2 || die "mount failed: $MNT"
  is_mounted "$MNT" || die "mount returned 0 but nothing is mounted: $MNT"
  DAEMON=$(timeout 10 "$ICECACHE_BIN" status "$MNT" --json | json_field pid)
  [ -z "$DAEMON" ] || own_pid "$DAEMON"
}

# mount_stop: the clean way down, with its final flush; fails when anything stays unsaved.
mount_stop() {
  timeout -k 5 120 "$ICECACHE_BIN" unmount "$MNT" >&2
}

# with_mount NAME [OPTION...] -- COMMAND...: COMMAND runs with $MNT mounted; fails if it or the clean unmount fails.
with_mount() {
  local name=$1 options=() status=0
  shift
  while [ "$1" != -- ]; do options+=("$1"); shift; done
  shift
  mount_start "$name" "${options[@]}"
  "$@" || status=$?
  mount_stop || { warn "unmount failed: $MNT"; [ $status -ne 0 ] || status=1; }
  return $status
}

# manifest DIR: one line per entry (path, type, mode, owner, size, mtime, target, links), then every file's digest.
# Two trees are the same when their manifests are. Sockets are left out: no archive keeps them.
manifest() (
  cd "$1"
  export LC_ALL=C
  find . -mindepth 1 ! -type s \( -type d -printf '%P|%y|%m|%U:%G|-|%T@|%l|-\n' -o -printf '%P|%y|%m|%U:%G|%s|%T@|%l|%n\n' \) | sort
  find . -type f -print0 | sort -z | xargs -0 -r sha256sum
)

# ---- suites -----------------------------------------------------------------------------------------------
# A suite reports each case by passed/failed and ends with suite_end, whose line scripts/test adds up.
suite_passed=0
suite_failed=0
passed() { suite_passed=$((suite_passed + 1)); printf '%s\n' "${green}ok${plain}      $*"; }
failed() { suite_failed=$((suite_failed + 1)); printf '%s\n' "${red}FAILED${plain}  $*"; }

# suite_case NAME COMMAND...: one case with its own log, shown only when it fails; at most five minutes.
suite_case() {
  local name=$1 log start
  shift
  log=$work/${name//[^A-Za-z0-9]/_}.log
  start=$(now_us)
  # A subshell with errexit of its own: bash ignores `set -e` in whatever stands before && or in an if.
  set +e
  (set -e; "$@") >"$log" 2>&1 </dev/null
  local status=$?
  set -e
  if [ $status -eq 0 ]; then
    passed "$name ($(seconds_since "$start") s)"
  else
    failed "$name (status $status, $(seconds_since "$start") s)"
    tail -n 40 "$log" | sed 's/^/        /'
  fi
}
suite_end() {
  printf 'suite %s: %d passed, %d failed\n' "$1" "$suite_passed" "$suite_failed"
  [ "$suite_failed" -eq 0 ] && [ "$suite_passed" -gt 0 ]
}
