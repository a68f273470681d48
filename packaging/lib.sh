# What the scripts of this folder share: progress lines, packages, Docker, the binary. To be sourced.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
LOGS=${OV2_LOGS:-$(mktemp -d "${TMPDIR:-/tmp}/ov2-ha-recorder-logs.XXXXXX")}
export OV2_LOGS=$LOGS
mkdir -p "$LOGS"
HOME=${HOME:-$(cd ~ && pwd)}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/ov2-ha-recorder # what is built goes here, not into the tree
# Cargo tells how far it is also where no terminal shows it; `step` prints that.
export HOME CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100
exec {NEVER}<> <(:) # nothing ever comes from here; see `pause`

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# step "what is done" command…: runs it with its output in a file and prints how long it took. A step that takes longer than
# two seconds is announced, and every 20 s it prints what it is at. One that fails shows the end of what it wrote. Each line
# names its step, for steps run beside each other.
step() {
  local what=$1 log started=$SECONDS status=0 teller
  shift
  log=$LOGS/$(tr -cs 'a-zA-Z0-9' '-' <<<"$what" | cut -c1-50).log
  tell "$what" "$log" & teller=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill "$teller" 2>/dev/null || true
  wait "$teller" 2>/dev/null || true
  if [ "$status" = 0 ]; then
    say "  $what: $((SECONDS - started)) s"
    return
  fi
  say "FAILED: $what after $((SECONDS - started)) s (exit code $status); the last lines of $log:" >&2
  lines "$log" | tail -n "${OV2_TAIL:-60}" >&2
  return "$status"
}

tell() {
  local what=$1 log=$2 started=$SECONDS
  pause 2
  say "… $what"
  while :; do
    pause 20
    say "… $what: $((SECONDS - started)) s; $(latest "$log")"
  done
}

# No `sleep`: it would outlive the step that is over, with the caller's pipes in its hands.
pause() { read -rt "$1" -u "$NEVER" _ || true; }

# The last thing that a program wrote; of cargo's progress how many of how many crates are built, and which are at work.
latest() {
  local progress='s/^ *Building \[[^]]*\] \([0-9]*\/[0-9]*\)/crate \1/'
  tail -c 2000 "$1" 2>/dev/null | tr '\r' '\n' | sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e "$progress" -e 's/ *$//' -e '/^$/d' |
    tail -n 1 | cut -c1-110
}

lines() { tr '\r' '\n' <"$1" | sed -e '/^ *Building \[/d' -e '/^ *$/d'; }

# beside name command…: starts it beside what follows. joined name: waits for it and answers how it ended. What still runs
# when the script ends, ends with it.
declare -A BESIDE=()
beside() {
  set -m # a process group of its own, so that it ends with all that it started
  { BESIDE=(); "${@:2}"; } </dev/null & BESIDE[$1]=$!
  set +m
  trap 'for pid in "${BESIDE[@]}"; do kill -- "-$pid" 2>/dev/null || true; done' EXIT
}
joined() {
  local pid=${BESIDE[$1]}
  unset "BESIDE[$1]"
  wait "$pid"
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
    export LISTS_READ=yes
  fi
  step "installing ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

# need_browser [chromedriver]: Chromium, and what drives it. Ubuntu has no package of it but a snap, which cannot be driven
# here; one that came another way is taken.
need_browser() {
  local missing=()
  command -v chromium >/dev/null || missing+=(chromium)
  [ -z "${1:-}" ] || command -v "$1" >/dev/null || missing+=(chromium-driver)
  [ ${#missing[@]} = 0 ] && return
  [ -n "${LISTS_READ:-}" ] || step "reading the list of packages" as_root apt-get update -qq
  export LISTS_READ=yes
  if apt-cache show chromium 2>/dev/null | grep -q '^Filename:.*chromium_'; then
    need_packages "${missing[@]}"
  else
    say "note: this system has no package of ${missing[*]}; recorders run in Docker only"
  fi
}

docker_answers() { docker version >/dev/null 2>&1; }

# Makes a Docker daemon answer: the one that runs, systemd's, or one started here. Says why when none can.
need_docker() {
  docker_answers && return
  # Where there is one from elsewhere, the distribution's would take its place.
  command -v dockerd >/dev/null || need_packages docker.io || return
  need_packages iptables procps || return
  docker_answers && return
  if [ -d /run/systemd/system ]; then
    as_root systemctl start docker || true
    wait_for_docker 30 && return
  fi
  may_use_docker || return
  mount_cgroups
  start_dockerd && return
  may_use_docker || return # it runs, and this user may not speak to it
  start_dockerd --bridge=none --iptables=false && return
  start_dockerd --bridge=none --iptables=false --storage-driver=vfs && return
  say "no Docker daemon can be started here; the end of its log:" >&2
  tail -n 15 "$LOGS/dockerd.log" >&2
  return 1
}

may_use_docker() {
  local socket=/var/run/docker.sock
  if [ ! -S "$socket" ] || [ -w "$socket" ]; then return; fi
  say "Docker's socket $socket is closed to $(id -un); run \"sudo usermod -aG docker $(id -un)\" and log in again" >&2
  return 1
}

# The daemon outlives the script: in a session of its own, and holding nothing of the caller's. A pipe that it kept open would
# make whoever reads this script's output wait for ever.
start_dockerd() {
  # A daemon that runs needs it: it keeps a second one away from the same images.
  pgrep -x dockerd >/dev/null || as_root rm -f /var/run/docker.pid
  as_root env -u OV2_LOGS sh -c 'log=$1; shift; setsid dockerd "$@" >"$log" 2>&1 </dev/null &' - "$LOGS/dockerd.log" "$@"
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

id_of() { docker image inspect --format '{{.Id}}' "$1" 2>/dev/null || true; }
exists() { [ -n "$(id_of "$1")" ]; }

# need_debian: sets DEBIAN to an image of a minimal Debian, made from the mirror that this machine's own apt uses.
need_debian() {
  DEBIAN=ov2-ha-recorder-debian:bookworm
  exists "$DEBIAN" || make_debian "$DEBIAN"
}

make_debian() {
  need_packages debootstrap debian-archive-keyring
  local root mirror security; root=$(mktemp -d)
  mirror=$(mirror_of bookworm http://deb.debian.org/debian)
  security=$(mirror_of bookworm-security http://deb.debian.org/debian-security)
  step "making a minimal Debian with debootstrap" as_root debootstrap --variant=minbase \
    --include=ca-certificates --keyring=/usr/share/keyrings/debian-archive-keyring.gpg bookworm "$root/debian" "$mirror"
  printf 'deb %s bookworm main\ndeb %s bookworm-updates main\ndeb %s bookworm-security main\n' \
    "$mirror" "$mirror" "$security" | as_root tee "$root/debian/etc/apt/sources.list" >/dev/null
  as_root sh -c "rm -rf '$root'/debian/var/cache/apt/archives/*.deb '$root'/debian/var/lib/apt/lists/*"
  as_root tar -C "$root/debian" -c . | docker import -c 'CMD ["bash"]' - "$1" >/dev/null
  as_root rm -rf "$root"
}

mirror_of() {
  local found
  found=$(apt-get indextargets --format '$(CODENAME) $(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$1" '$1 == suite && $2 == "Debian" { print $3; exit }')
  found=${found%/}
  echo "${found:-$2}"
}

proxies() {
  local name
  for name in http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || printf -- '--build-arg %s=%s ' "$name" "${!name}"
  done
}

# Tools that the tests need and Debian has no package of; kept between runs.
TOOLS=$CACHE/tools
export PATH="$TOOLS/bin:$PATH"

# need_crate name version [cargo's further arguments]: a program from crates.io, built once. It only helps the tests: not
# optimised it is there sooner; and in a folder of its own it keeps no other build waiting.
need_crate() {
  # Not by what it says: not every one knows --version.
  [ -x "$TOOLS/bin/$1" ] && grep -qF "\"$1 $2 " "$TOOLS/.crates.toml" && return
  step "building $1 $2, once" env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
    cargo install "$1" --version "$2" --locked --root "$TOOLS" --target-dir "$TOOLS/building-$1" "${@:3}" || return
  rm -rf "$TOOLS/building-$1"
}

# need_python program package==version…: Python programs in an environment of their own, linked beside the other tools.
need_python() {
  local program=$1 packages=("${@:2}") place
  place=$TOOLS/python-$program
  [ "$(cat "$place/packages" 2>/dev/null)" = "${packages[*]}" ] && return
  need_packages python3-venv || return
  rm -rf "$place"
  step "installing $program from PyPI" sh -c '
    place=$1; shift
    /usr/bin/python3 -m venv "$place" && "$place/bin/pip" --quiet --disable-pip-version-check install "$@"' \
    - "$place" "${packages[@]}" || return
  mkdir -p "$TOOLS/bin"
  ln -sf "$place/bin/$program" "$TOOLS/bin/$program"
  printf '%s' "${packages[*]}" >"$place/packages"
}

# need_musl: the target that the recording image's binary is built for; where it cannot be had the usual one is taken.
need_musl() {
  TARGET=${TARGET:-$(uname -m)-unknown-linux-musl}
  need_packages musl-tools || return
  command -v rustup >/dev/null || { TARGET=; return; }
  rustup target list --installed | grep -qx "$TARGET" && return
  step "adding the Rust target $TARGET" rustup target add "$TARGET" || TARGET=
}

# need_target_dir: CARGO_TARGET_DIR for all that follows, as the environment or cargo's configuration has it. Where they say
# nothing, what is built stays out of the tree.
need_target_dir() {
  local found
  found=$(cargo metadata --manifest-path "$ROOT/Cargo.toml" --no-deps --format-version 1 |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/') || return
  [ -n "${CARGO_TARGET_DIR:-}" ] || [ "$found" != "$ROOT/target" ] || found=$CACHE/target
  export CARGO_TARGET_DIR=$found
}

# reproducible: the same commit gives the same bytes, for no path of this machine and no time goes into a binary.
reproducible() {
  need_target_dir || return
  local home=${CARGO_HOME:-$HOME/.cargo} maps=() map flags=()
  maps=("$CARGO_TARGET_DIR=/target" "$home=/cargo" "$(rustc --print sysroot)=/rust")
  for map in "${maps[@]}"; do flags+=("--remap-path-prefix=$map"); done
  # The loader would read half a megabyte of relocations, which stays in memory; musl has known the short form since 1.2.4.
  [ -z "${TARGET:-}" ] || flags+=(-C link-arg=-Wl,-z,pack-relative-relocs)
  CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${flags[*]}")
  SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$ROOT" log -1 --format=%ct 2>/dev/null || echo 0)}
  OV2_COMMIT=$(git -C "$ROOT" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
  export OV2_COMMIT CARGO_ENCODED_RUSTFLAGS SOURCE_DATE_EPOCH CFLAGS="${maps[*]/#/-ffile-prefix-map=}" CARGO_INCREMENTAL=0 TZ=UTC LC_ALL=C
}

# Where the build script of the API's page runs again, it compresses what it had compressed, too, and all of it is embedded.
embeds_once() {
  local twice
  for twice in "$CARGO_TARGET_DIR"/*/*/build/utoipa-swagger-ui-*/out/*/dist/index.html.gz.gz; do
    [ ! -e "$twice" ] || rm -rf "${twice%/build/*}"/{build,.fingerprint}/utoipa-swagger-ui-*
  done
}

# build_binary [cargo's further arguments]: sets BINARY. A static binary runs in every recording image; one of the usual
# target only where the image's C library is as new as this machine's. OV2_PROFILE=quick builds in a third of the time.
build_binary() {
  local profile=${OV2_PROFILE:-release} folder
  need_target_dir && need_musl || return
  embeds_once
  [ -n "$TARGET" ] || say "note: no musl target for Rust; the binary will need an image as new as this machine"
  case $profile in dev) folder=debug ;; bench) folder=release ;; *) folder=$profile ;; esac
  # Only what is shipped must come out the same everywhere; the others share what cargo has built already.
  [ "$profile" != release ] || reproducible
  step "building ov2-ha-recorder, profile $profile" \
    cargo build --manifest-path "$ROOT/Cargo.toml" --locked --profile "$profile" ${TARGET:+--target "$TARGET"} \
    --bin ov2-ha-recorder "$@" || return
  unset CARGO_ENCODED_RUSTFLAGS CFLAGS
  BUILT=$CARGO_TARGET_DIR/${TARGET:+$TARGET/}$folder
  BINARY=$BUILT/ov2-ha-recorder
}
