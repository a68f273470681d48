//! Reads the tables in `src/ARCHITECTURE.md` and holds the source against them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn rooms_import_from_lower_layers_only() {
    let layers = layers();
    let mut faults = Vec::new();
    for (room, path, text) in sources() {
        let Some(own) = layers.get(&room) else {
            continue; // main.rs and lib.rs
        };
        for target in text.split("crate::").skip(1).map(first_word) {
            let allowed = target == room || layers.get(&target).is_some_and(|layer| layer < own);
            if layers.contains_key(&target) && !allowed {
                faults.push(format!("{} ({room}) imports {target}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_room_is_in_the_table() {
    let layers = layers();
    for (room, path, _) in sources() {
        let known = layers.contains_key(&room) || matches!(room.as_str(), "main" | "lib");
        assert!(known, "{} is in no room of the table", path.display());
    }
}

#[test]
fn outside_libraries_have_one_owner() {
    let owners = table("## Owners")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect::<Vec<_>>();
    assert!(owners.len() > 5, "the table of owners was not read");
    let mut faults = Vec::new();
    for (room, path, text) in sources() {
        for (library, rooms) in &owners {
            let used =
                text.contains(&format!("{library}::")) || text.contains(&format!("{library}("));
            if used && !rooms.split_whitespace().any(|owner| owner == room) {
                faults.push(format!("{} ({room}) uses {library}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn layers() -> BTreeMap<String, u32> {
    let layers = table("## Rooms")
        .into_iter()
        .map(|row| (row[1].clone(), row[0].parse().unwrap()))
        .collect::<BTreeMap<_, _>>();
    assert!(layers.len() > 10, "the table of rooms was not read");
    layers
}

/// The rows below `heading`, cells without their back-ticks.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let (_, section) = text.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    section
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            line.trim_matches('|')
                .split('|')
                .map(|cell| cell.replace('`', "").trim().to_owned())
                .collect()
        })
        .collect()
}

/// Every source file with its room and its text without comment lines and tests.
fn sources() -> Vec<(String, PathBuf, String)> {
    let mut found = Vec::new();
    visit(&root().join("src"), &mut found);
    assert!(found.len() > 10, "the source was not found");
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap();
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            (room_of(&path), path, code)
        })
        .collect()
}

fn visit(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

fn room_of(path: &Path) -> String {
    let inner = path.strip_prefix(root().join("src")).unwrap();
    let first = inner.components().next().unwrap().as_os_str();
    first.to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn first_word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
