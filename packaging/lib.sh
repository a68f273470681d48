# What the scripts of this folder share: progress lines, packages, Docker, the binary. To be sourced.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOGS=${OV2_LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/ov2-ha-recorder-logs.XXXXXX")}
export OV2_LOGS=$LOGS
mkdir -p "$LOGS"

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# step "what is done" command…: runs it with its output in a file. Says so only when it takes longer than two seconds;
# when it fails, shows the end of what it wrote.
step() {
  local what=$1 log started=$SECONDS status=0 timer
  shift
  log=$LOGS/$(tr -cs 'a-zA-Z0-9' '-' <<<"$what" | cut -c1-50).log
  { sleep 2 && say "… $what"; } & timer=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if kill "$timer" 2>/dev/null; then wait "$timer" 2>/dev/null || true; else say "  done in $((SECONDS - started)) s"; fi
  [ "$status" = 0 ] && return
  say "FAILED: $what (exit code $status); the last lines of $log:" >&2
  tail -n "${OV2_TAIL:-60}" "$log" >&2
  return "$status"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# need_packages name…: installs those Debian or Ubuntu packages that are missing.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  command -v apt-get >/dev/null || die "these packages are needed and this is no Debian or Ubuntu: ${missing[*]}"
  as_root true 2>/dev/null || die "these packages are needed; run as root: apt-get install ${missing[*]}"
  if [ -z "${LISTS_READ:-}" ]; then
    step "reading the list of packages" as_root apt-get update -qq || return
    LISTS_READ=yes
  fi
  step "installing ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

# need_browser [further packages]: Debian's chromium; Ubuntu has no package of it but a snap, which cannot be driven here.
need_browser() {
  if command -v chromium >/dev/null; then need_packages "$@"; return; fi
  [ -n "${LISTS_READ:-}" ] || step "reading the list of packages" as_root apt-get update -qq
  if apt-cache show chromium 2>/dev/null | grep -q '^Filename:.*chromium_'; then
    need_packages chromium "$@"
  else
    say "note: this system has no package of Chromium; recorders run in Docker only"
  fi
}

docker_answers() { docker version >/dev/null 2>&1; }

# Makes a Docker daemon answer: the one that runs, systemd's, or one started here. Says why when none can.
need_docker() {
  docker_answers && return
  need_packages docker.io iptables || return
  docker_answers && return
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker || true
    wait_for_docker 30 && return
  fi
  mount_cgroups
  start_dockerd && return
  start_dockerd --bridge=none --iptables=false && return
  start_dockerd --bridge=none --iptables=false --storage-driver=vfs && return
  say "no Docker daemon can be started here; the end of its log:" >&2
  tail -n 15 "$LOGS/dockerd.log" >&2
  return 1
}

start_dockerd() {
  as_root rm -f /var/run/docker.pid
  as_root setsid dockerd "$@" >"$LOGS/dockerd.log" 2>&1 </dev/null &
  wait_for_docker 30
}

# A daemon that gave up has left the log's last word; one that is slow is waited for.
wait_for_docker() {
  local end=$((SECONDS + $1))
  while [ $SECONDS -lt $end ]; do
    docker_answers && return
    sleep 0.5
    pgrep -x dockerd >/dev/null || [ -d /run/systemd/system ] || { sleep 1; docker_answers; return; }
  done
  return 1
}

# Machines without an init system may have mounted no control groups.
mount_cgroups() {
  mountpoint -q /sys/fs/cgroup && return
  as_root mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null || true
}

# need_musl: the target that the recording image's binary is built for; where it cannot be had the usual one is taken.
need_musl() {
  TARGET=$(uname -m)-unknown-linux-musl
  need_packages musl-tools || return
  command -v rustup >/dev/null || { TARGET=; return; }
  rustup target list --installed | grep -qx "$TARGET" && return
  step "adding the Rust target $TARGET" rustup target add "$TARGET" || TARGET=
}

# build_binary [cargo's further arguments]: sets BINARY. A static binary runs in every recording image; one of the usual
# target only where the image's C library is as new as this machine's. OV2_PROFILE=dev builds faster and runs slower.
build_binary() {
  local profile=${OV2_PROFILE:-release} folder
  need_musl
  [ -n "$TARGET" ] || say "note: no musl target for Rust; the binary will need an image as new as this machine"
  folder=$profile; [ "$profile" = dev ] && folder=debug
  step "building ov2-ha-recorder ($profile; the first time some minutes)" \
    cargo build --manifest-path "$ROOT/Cargo.toml" --locked --profile "$profile" ${TARGET:+--target "$TARGET"} \
    --bin ov2-ha-recorder "$@" || return
  BUILT=${CARGO_TARGET_DIR:-$ROOT/target}/${TARGET:+$TARGET/}$folder
  BINARY=$BUILT/ov2-ha-recorder
}
