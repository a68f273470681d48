//! Programs that take the place of a machine's own on the `PATH`: what calls them is tried without Docker, apt or systemd, and
//! every call is written down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Notes its call and does nothing more.
pub const NOTHING: &str = "";

/// Docker as far as images are built, tagged and asked about. An image is a folder with its id, its labels, the program that was
/// built into it, and its settings. `$STATE/running` has a line for each recorder, which is of an image that has none.
/// `$STATE/registry` is the id of whatever is pulled, `$STATE/hung-registry` makes one that does not
/// answer, `$STATE/no-build` one whose builds fail, `$STATE/no-copy` one that copies nothing. `$STATE/silent` makes it one whose daemon does not answer, `$STATE/hung` one that hangs,
/// `$STATE/no-service` one without compose's controller.
const DOCKER: &str = r#"
[ ! -e "$STATE/silent" ] || { echo "Cannot connect to the Docker daemon" >&2; exit 1; }
[ ! -e "$STATE/hung" ] || exec sleep 120
place() { echo "$STATE/images/${1//\//%}"; }
# By its name or its id.
found() { local id; for id in "$STATE"/images/*/id; do [ "$(cat "$id")" != "$1" ] || { dirname "$id"; return; }; done; place "$1"; }
make() { mkdir -p "$(place "$1")"; echo "$RANDOM$RANDOM" >"$(place "$1")/id"; }
verb=$1; shift
case $verb in
  version) echo 27 ;;
  container) [ ! -e "$STATE/no-service" ] ;;
  start | stop | restart) ;;
  ps) cat "$STATE/running" 2>/dev/null || true ;;
  inspect) case $* in *.Image*) shift 2; printf 'older /recording_%s\n' "$@" ;; *) echo true ;; esac ;;
  create) shift 3; at=$(found "$1"); [ -d "$at" ] || exit 1; echo "$at" >"$STATE/looked-into" ;;
  cp)
    [ ! -e "$STATE/no-copy" ] || exit 1
    at=$(cat "$STATE/looked-into")
    [ -e "$at/ov2-ha-recorder.env" ] || { echo "Error: No such container:path: $1" >&2; exit 1; }
    tar -c -C "$at" ov2-ha-recorder.env ;;
  rm | images) ;;
  image)
    shift; form=
    case $1 in -f | --format) form=$2; shift 2 ;; esac
    at=$(place "$1")
    [ -d "$at" ] || exit 1
    case $form in
      '{{.Id}}') cat "$at/id" ;;
      *Labels*) label=${form#*\"}; cat "$at/${label%%\"*}" 2>/dev/null || echo ;;
    esac ;;
  pull)
    [ ! -e "$STATE/hung-registry" ] || exec sleep 600
    [ -e "$STATE/registry" ] || exit 1
    # What had the name is there still, by its id.
    [ ! -d "$(place "$2")" ] || mv "$(place "$2")" "$(place "$(cat "$(place "$2")/id")")"
    mkdir "$(place "$2")"; cp "$STATE/registry" "$(place "$2")/id" ;;
  tag) [ -d "$(place "$1")" ] || exit 1; rm -rf "$(place "$2")"; cp -r "$(place "$1")" "$(place "$2")" ;;
  rmi) [ -d "$(place "$1")" ] || exit 1; rm -r "$(place "$1")" ;;
  build)
    [ ! -e "$STATE/no-build" ] || exit 1
    name=; labels=(created.by=ov2-ha-recorder)
    while [ $# -gt 1 ]; do
      case $1 in -t) name=$2 ;; --label) labels+=("$2") ;; --build-arg) [ -d "$(place "${2#BASE=}")" ] || exit 1 ;; esac
      shift
    done
    if [ -e "$1/Dockerfile" ]; then
      from=$(sed -n 's/^FROM //p' "$1/Dockerfile")
      cp -r "$(place "$from")" "$STATE/layer"
      rm -rf "$(place "$name")"
      mv "$STATE/layer" "$(place "$name")"
      cp "$1/ov2-ha-recorder.env" "$(place "$name")"
      echo "$RANDOM$RANDOM" >"$(place "$name")/id"
    else
      rm -rf "$(place "$name")"
      make "$name"
      cp "$1/ov2-ha-recorder" "$(place "$name")/program"
    fi
    for label in "${labels[@]}"; do echo "${label#*=}" >"$(place "$name")/${label%%=*}"; done ;;
  *) exit 1 ;;
esac
"#;

/// A folder of such programs.
#[derive(Debug)]
pub struct Fakes {
    folder: tempfile::TempDir,
}

impl Fakes {
    /// With a Docker that has no image.
    pub fn new() -> Self {
        let fakes = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(fakes.state().join("images")).unwrap();
        fs::create_dir(fakes.folder.path().join("bin")).unwrap();
        fakes.add("docker", DOCKER);
        fakes
    }

    /// Whatever they keep.
    pub fn state(&self) -> &Path {
        self.folder.path()
    }

    /// Adds `name`, which runs `script`.
    pub fn add(&self, name: &str, script: &str) {
        let path = self.folder.path().join("bin").join(name);
        let text = format!("#!/bin/bash\necho \"{name} $*\" >>\"$STATE/calls\"\n{script}");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Notes the calls of `name` and has the machine's own carry them out.
    pub fn hear(&self, name: &str) {
        let folders = std::env::var_os("PATH").unwrap();
        let mut files = std::env::split_paths(&folders).map(|folder| folder.join(name));
        let own = files.find(|file| file.is_file()).unwrap();
        self.add(name, &format!("exec '{}' \"$@\"", own.display()));
    }

    /// An image of somebody else.
    pub fn add_image(&self, name: &str, id: &str) {
        let image = self.image(name);
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("id"), format!("{id}\n")).unwrap();
    }

    /// Docker answers nobody any more.
    pub fn silence_docker(&self) {
        fs::write(self.state().join("silent"), "").unwrap();
    }

    /// Where an image lies.
    pub fn image(&self, name: &str) -> PathBuf {
        self.state().join("images").join(name.replace('/', "%"))
    }

    /// What an image tells its recorders.
    pub fn settings(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.image(name).join("ov2-ha-recorder.env")).ok()
    }

    /// The id of an image that is there.
    pub fn id(&self, name: &str) -> Option<String> {
        let id = fs::read_to_string(self.image(name).join("id")).ok()?;
        Some(id.trim().to_owned())
    }

    /// The calls of `program` by now, a line each.
    pub fn calls(&self, program: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.state().join("calls")).unwrap_or_default();
        let own = calls
            .lines()
            .filter(|call| call.split(' ').next() == Some(program));
        own.map(str::to_owned).collect()
    }

    /// Puts them before the machine's own programs.
    pub fn before<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let own = self.folder.path().join("bin");
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", own.display()))
            .env("STATE", self.state())
    }
}
