//! What the package holds beside the program and comes from the same tables: man pages, shell completions, the env file.

use super::{Command, Failure, exit};
use crate::config::{Setting, TABLE};
use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate_to};
use std::path::{Path, PathBuf};

/// Write man pages, shell completions and the env file with all settings into a folder.
#[derive(Debug, Args)]
pub(super) struct Package {
    /// The folder; made when it is not there.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Package {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.write().map_err(|cause| {
            Failure::with(
                exit::CANNOT_WRITE,
                format!("cannot write to {}: {cause}", self.folder.display()),
            )
        })
    }

    fn write(&self) -> std::io::Result<()> {
        let man = folder(&self.folder, "man")?;
        clap_mangen::generate_to(Command::command(), man)?;
        let completions = folder(&self.folder, "completions")?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(
                shell,
                &mut Command::command(),
                "ov2-ha-recorder",
                &completions,
            )?;
        }
        std::fs::write(self.folder.join("ov2-ha-recorder.env"), env_file())
    }
}

fn folder(parent: &Path, name: &str) -> std::io::Result<PathBuf> {
    let path = parent.join(name);
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

/// The package's env file: every setting with its meaning, set only where the package has an answer.
fn env_file() -> String {
    let mut text = String::from(
        "# Settings of ov2-ha-recorder. The real environment wins over this file; an empty value means unset.\n\
         # Every name also works with _FILE appended: the value is then read from that file.\n\
         # Try them with \"ov2-ha-recorder validate\", bring them into force with \"ov2-ha-recorder reconfigure\".\n",
    );
    for Setting {
        name,
        default,
        expected,
        help,
        ..
    } in TABLE
    {
        let line = match *name {
            "HA_CONTROLLER_USERNAME" => format!("{name}=recorder"),
            // Made at random when the package is installed.
            "HA_CONTROLLER_PASSWORD" => format!("{name}_FILE=/etc/ov2-ha-recorder/password"),
            _ => format!("#{name}={}", default.unwrap_or_default()),
        };
        let expected = match *expected {
            "a text" => String::new(),
            expected => format!(" ({expected})"),
        };
        text.push_str(&format!("\n# {help}{expected}\n{line}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_env_file_names_every_setting_and_holds_no_password() {
        let text = env_file();
        for setting in TABLE {
            assert!(
                text.contains(&format!("{}=", setting.name))
                    || text.contains(&format!("{}_FILE=", setting.name))
            );
        }
        let set = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .collect::<Vec<_>>();
        assert_eq!(
            set,
            [
                "HA_CONTROLLER_USERNAME=recorder",
                "HA_CONTROLLER_PASSWORD_FILE=/etc/ov2-ha-recorder/password"
            ]
        );
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Command::command().debug_assert();
    }
}
