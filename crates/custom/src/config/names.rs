// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which configs of a folder to run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Names of the configs to run: those of a list such as `a,b/c`, or all of the folder, sorted.
///
/// # Errors
/// When a name is not valid or comes twice, or the folder cannot be read.
pub fn names(dir: &Path, wanted: Option<&str>) -> Result<Vec<String>> {
    match wanted {
        Some(wanted) => split(wanted),
        None => all(dir).with_context(|| format!("failed to read the folder {}", dir.display())),
    }
}

fn split(wanted: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for name in wanted.split(',').map(str::trim) {
        if name.is_empty() {
            bail!("--config.names: expected names with commas between them, found {wanted:?}");
        }
        // The names of folders and files that they lead to, so one file has one name.
        let is_inside = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !is_inside || name.contains('\0') {
            bail!("--config.names: {name:?} is not a path below --config.dir: write NAME or FOLDER/NAME");
        }
        if names.iter().any(|other| other == name) {
            bail!("--config.names: multiple configs with name {name:?}");
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn all(dir: &Path) -> Result<Vec<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let Some(file) = file.to_str() else {
            if file.as_encoded_bytes().ends_with(b".yaml") {
                bail!("the name of the file {} is not UTF-8: rename it", file.display());
            }
            continue;
        };
        // Hidden files are those of editors, and of volumes that are exchanged as a whole.
        let name = file.strip_suffix(".yaml").filter(|name| !name.is_empty() && !name.starts_with('.'));
        if let Some(name) = name
            && !entry.path().is_dir()
        {
            names.insert(name.to_owned());
        }
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_are_split_at_commas() {
        let split = |wanted: &str| names(Path::new("/nonexistent"), Some(wanted)).map_err(|e| e.to_string());
        assert_eq!(split("a"), Ok(vec!["a".into()]));
        assert_eq!(split("b, a,net/c "), Ok(vec!["b".into(), "a".into(), "net/c".into()]));
        let table = [
            ("", "--config.names: expected names with commas between them, found \"\""),
            ("a,,b", "--config.names: expected names with commas between them, found \"a,,b\""),
            ("a,b,a", "--config.names: multiple configs with name \"a\""),
        ];
        for (wanted, expected) in table {
            assert_eq!(split(wanted), Err(expected.to_owned()));
        }
        for outside in ["..", "../a", "a/../../b", "/etc/a", "a//b", "./a", "a/", "a\0"] {
            let error = split(outside).expect_err(outside);
            assert!(
                error.ends_with("is not a path below --config.dir: write NAME or FOLDER/NAME"),
                "{error}"
            );
        }
    }

    #[test]
    fn without_names_all_of_the_folder_are_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        assert_eq!(names(dir, None).expect("empty"), Vec::<String>::new());
        for file in ["b.yaml", "a.yaml", "a.bpf.o", ".hidden.yaml", ".yaml", "c.yml", "d.yaml~"] {
            fs::write(dir.join(file), "").expect("written");
        }
        fs::create_dir(dir.join("e.yaml")).expect("made");
        symlink("gone", dir.join("f.yaml")).expect("linked");
        assert_eq!(names(dir, None).expect("read"), ["a", "b", "f"]);
        let error = format!("{:#}", names(&dir.join("no"), None).expect_err("missing"));
        assert!(error.starts_with("failed to read the folder ") && error.contains("No such file"), "{error}");
    }
}
