# What the benchmarks of the daemon share. Sourced after scripts/lib.sh, never run.
# shellcheck shell=bash

# What is measured is our own code as it is shipped; tests build it for less time.
export ICECACHE_BUILD="--config profile.ci.package.icecache.opt-level=3 --config profile.ci.package.icecache-iceberg.opt-level=3"

# daemon_tree PID: the process and its children (the helper of the cut is one).
daemon_tree() { printf '%s\n' "$1" "$(cat /proc/"$1"/task/*/children 2>/dev/null)" | tr -s ' ' '\n' | sed '/^$/d'; }

# cpu_ms PID: CPU time of the daemon and its children so far, threads that have ended included.
cpu_ms() {
  local pid total=0 stat
  for pid in $(daemon_tree "$1"); do
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    total=$((total + ${12} + ${13}))
  done
  printf '%d\n' $((total * 1000 / $(getconf CLK_TCK)))
}

# memory_kib PID FIELD: VmRSS or VmHWM, summed over the daemon and its children.
memory_kib() {
  local pid
  for pid in $(daemon_tree "$1"); do sed -n "s/^$2:[^0-9]*\([0-9]*\).*/\1/p" "/proc/$pid/status" 2>/dev/null; done \
    | awk '{ sum += $1 } END { print sum + 0 }'
}

# wakeups PID: voluntary context switches of all threads so far.
wakeups() {
  local pid
  for pid in $(daemon_tree "$1"); do cat "/proc/$pid"/task/*/status 2>/dev/null; done \
    | awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum + 0 }'
}

# remote_requests: all requests to the remote so far (every kind the daemon counts).
remote_requests() {
  timeout 10 "$ICECACHE_BIN" stats "$MNT" --json | python3 -c '
import json, sys
r = json.load(sys.stdin)["requests"]
print(sum(r[k] for k in ("get", "download", "put", "upload")))'
}

# median: of the numbers on stdin, one a line; percentile P likewise.
median() { percentile 50; }
percentile() {
  sort -g | awk -v p="$1" '{ v[NR] = $1 } END { if (!NR) exit 1; i = int((NR - 1) * p / 100 + 0.5) + 1; print v[i] }'
}

# set_aside DIRECTORY TO: out of the way, and its files emptied, so that they take no room. They are not removed: ext4 goes
# around the inodes of what was removed in the last minutes, one by one, when it makes new ones. In memory they are.
set_aside() {
  mv "$1" "$2"
  if [ "$(stat -f -c %T "$2")" = tmpfs ]; then rm -rf "$2"; else find "$2" -type f -print0 | xargs -0 -r truncate -s 0; fi
}

# machine: one line that says where the figures come from. $work is set by work_dir.
# shellcheck disable=SC2154
machine() {
  printf 'Linux %s, %s cores, %s, %s\n' "$(uname -r | cut -d- -f1)" "$(nproc)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(findmnt -n -o FSTYPE -T "$work" | tail -n 1)"
}

# build_bench NAME: builds an example and copies it into $work, out of reach of a build that somebody starts meanwhile.
build_bench() {
  # shellcheck disable=SC2086
  (cd "$ICECACHE_ROOT" && cargo build --locked --profile ci $ICECACHE_BUILD --workspace --example "$1" >&2) || die "the build failed"
  cp "$CARGO_TARGET_DIR/ci/examples/$1" "$work/$1"
}

# own_icecache: measure a copy of the program, for the same reason.
own_icecache() {
  need_icecache
  cp "$ICECACHE_BIN" "$work/icecache"
  ICECACHE_BIN=$work/icecache
  export ICECACHE_BIN
}

# need_aws: the AWS command line; installed into the folder of tools if it is missing.
need_aws() {
  if ! have aws && [ ! -x "$ICECACHE_TOOLS/aws/bin/aws" ]; then
    if ! { python3 -m venv "$ICECACHE_TOOLS/aws" && "$ICECACHE_TOOLS/aws/bin/pip" --quiet install awscli >&2; }; then
      rm -rf -- "$ICECACHE_TOOLS/aws"
      die "the AWS command line cannot be installed"
    fi
  fi
  PATH=$PATH:$ICECACHE_TOOLS/aws/bin
}

# far MS [LOG]: from here on the server at $near is so far away, there and back, at $url; 0: nothing stands between. LOG
# gets a line for each request that passes.
# shellcheck disable=SC2034,SC2154
far() {
  local port
  url=$near
  [ "$1" != 0 ] || return 0
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  [ -z "${proxy_in:-}" ] || exec {proxy_in}>&-
  rm -f "$work/proxy.in" "$work/proxy.out"
  mkfifo "$work/proxy.in" "$work/proxy.out"
  "$ICECACHE_ROOT/scripts/bench/delay.py" "$port" "${near##*:}" "$(awk -v ms="$1" 'BEGIN { print ms / 2 }')" ${2:+"$2"} \
    <"$work/proxy.in" >"$work/proxy.out" &
  own_pid $!
  exec {proxy_in}>"$work/proxy.in"
  read -r _ <"$work/proxy.out"
  url=http://127.0.0.1:$port
}
