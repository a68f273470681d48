//! A recorder's stand-in, light enough to run by the dozen: a shell that registers, beats, and ends on `q` in the stop
//! file. As an image made from this machine's own bash, and as a program for the process runtime.

use super::docker::{Container, docker};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the stand-in runs. Without `PORT` it talks to nobody.
const SCRIPT: &str = r#"#!/bin/bash
stop=/stop
while [ $# -gt 0 ]; do [ "$1" = --stop-file ] && stop=$2; shift; done
[ -e "$stop" ] && : > "$stop"
id=$OV2_RECORDER_CONTAINER_ID
[ -n "$id" ] || while read -r line; do
  [[ $line =~ containers/([0-9a-f]{64})/ ]] && id=${BASH_REMATCH[1]}
done < /proc/self/mountinfo
exec {never}<> <(:)
say() { # method, path, body: the status
  exec 3<>"/dev/tcp/127.0.0.1/$PORT" || return 1
  printf '%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
    "$1" "$2" "$AUTHORIZATION" "${#3}" "$3" >&3
  status=; read -rt 5 -u 3 _ status _
  exec 3>&-
  [ "${status:0:1}" = 2 ]
}
register='{"sessionId":"'$VIDEO_ID'","clientId":"stand-in","recorder":{"take":"'$TAKE'","containerId":"'$id'","lastRun":0,"run":null,"videoName":"'$VIDEO_ID'"}}'
chunk=0
if [ -n "$PORT" ]; then
  until say POST /api/sessions "$register"; do [ "$status" = 409 ] && exit 3; read -rt 0.2 -u "$never"; done
fi
while :; do
  read -r word 2>/dev/null < "$stop"; [ "$word" = q ] && exit 0
  if [ -n "$PORT" ]; then
    chunk=$((chunk + 1))
    say PUT "/api/sessions/$VIDEO_ID/heartbeat" '{"lastChunk":"'$$-$chunk'.mp4"}'
    [ "$status" = 409 ] && exit 3
    read -rt "${BEAT:-1}" -u "$never"
  fi
  read -rt 0.05 -u "$never"
done
"#;

/// The stand-in's image under a name and a tag that only one test knows; gone with it, and so are its containers and the
/// backups that were made of it.
#[derive(Debug)]
pub struct StandIn {
    /// The image's name without tag.
    pub name: String,
    /// Its tag, which the image of its backups bears too.
    pub tag: String,
}

impl StandIn {
    /// Makes the image; an error where Docker cannot be had.
    pub fn image(folder: &Path) -> Result<Self, String> {
        docker(&["version", "--format", "{{.Server.Version}}"])?;
        let root = folder.join("root");
        for file in files_of("/bin/bash") {
            let copy = root.join(file.strip_prefix("/").unwrap());
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(&file, copy).unwrap();
        }
        // Docker runs health checks by it.
        std::os::unix::fs::symlink("bash", root.join("bin/sh")).unwrap();
        write_program(&root.join("record"));
        let tag = ov2_ha_recorder::random::hex::<6>();
        let name = format!("ov2-ha-test/{tag}");
        let archive = folder.join("root.tar");
        let packed = Command::new("tar")
            .args(["-C", path_text(&root), "-cf", path_text(&archive), "."])
            .status()
            .map_err(|cause| cause.to_string())?;
        assert!(packed.success());
        let image = format!("{name}:{tag}");
        docker(&[
            "import",
            "--change",
            "ENTRYPOINT [\"/bin/bash\", \"/record\"]",
            path_text(&archive),
            &image,
        ])?;
        Ok(Self { name, tag })
    }

    /// Makes and starts a container as OpenVidu does.
    pub fn run(&self, recording: &str, more: &[(&str, String)]) -> Container {
        self.run_with(recording, more, &[])
    }

    /// The same with options of `docker run`.
    pub fn run_with(
        &self,
        recording: &str,
        more: &[(&str, String)],
        options: &[&str],
    ) -> Container {
        let mut args = [&["run", "-d", "--network", "host"], options]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>();
        args.extend([
            "--name".into(),
            format!("recording_{}_{}", &self.name[12..], recording),
        ]);
        for (name, value) in environment(recording, more) {
            args.extend(["-e".into(), format!("{name}={value}")]);
        }
        args.push(format!("{}:{}", self.name, self.tag));
        Container(docker(&args).unwrap())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let listed = docker(&[
            "ps",
            "-aq",
            "--no-trunc",
            "--filter",
            &format!("label=stand-in={}", self.name),
        ]);
        let ours = docker(&["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Image}}"])
            .unwrap_or_default();
        let ours = ours.lines().filter_map(|line| {
            let (id, image) = line.split_once(' ')?;
            let backup = image.strip_prefix("ov2-ha-recorder/backup:");
            let ours = image.starts_with(&self.name) || backup == Some(&self.tag);
            ours.then_some(id)
        });
        let ids: Vec<String> = listed
            .unwrap_or_default()
            .lines()
            .chain(ours)
            .map(str::to_owned)
            .collect();
        if !ids.is_empty() {
            let mut args = vec!["rm".to_owned(), "-f".into()];
            args.extend(ids);
            let _ = docker(&args);
        }
        for name in [self.name.as_str(), "ov2-ha-recorder/backup"] {
            let _ = docker(&["rmi", &format!("{name}:{}", self.tag)]);
        }
    }
}

/// The stand-in as a program of this machine.
pub fn write_program(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, SCRIPT).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A recorder's environment.
pub fn environment(recording: &str, more: &[(&str, String)]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("VIDEO_ID".to_owned(), recording.to_owned()),
        ("TAKE".to_owned(), "1795577569000".to_owned()),
    ]);
    all.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    all
}

/// A program with the libraries that it loads.
fn files_of(program: &str) -> Vec<PathBuf> {
    let loaded = Command::new("ldd")
        .arg(program)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&loaded.stdout).into_owned();
    let libraries = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    std::iter::once(PathBuf::from(program))
        .chain(libraries)
        .collect()
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}
