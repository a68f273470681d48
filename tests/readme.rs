//! Holds the README against the program.

use ov2_ha_recorder::config::TABLE;

#[test]
fn the_readmes_table_of_settings_is_the_programs() {
    let text = include_str!("../README.md");
    let rows = TABLE.iter().map(|setting| {
        let default = setting.default.filter(|text| !text.is_empty());
        let default = default.map_or("—".into(), |text| format!("`{text}`"));
        format!("| `{}` | {default} | {} |\n", setting.name, setting.help)
    });
    let table = format!(
        "| name | default | meaning |\n|---|---|---|\n{}",
        rows.collect::<String>()
    );
    assert!(
        text.contains(&table),
        "README.md must hold this table:\n\n{table}"
    );
}

#[test]
fn every_file_that_the_readme_names_is_there() {
    let text = include_str!("../README.md");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let words = text.split(|c: char| c.is_whitespace() || "`()[],;".contains(c));
    for path in words.filter(|word| word.starts_with("packaging/") || word.starts_with("src/")) {
        assert!(
            root.join(path.trim_end_matches(['.', ':'])).exists(),
            "{path} is not there"
        );
    }
}
