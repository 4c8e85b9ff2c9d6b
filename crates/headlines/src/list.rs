// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list that a supervisor serves: which exporters it has, and what they do.

use serde::{Deserialize, Serialize};

/// Where a supervisor serves it. Below that, `/NAME` stands for the address of an exporter.
pub const LIST: &str = "/exporters";

/// Word for an exporter that can be asked.
pub const RUNNING: &str = "running";

/// An exporter of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Listed {
    /// NAME of `ebpf-NAME-exporter`.
    pub exporter: String,
    /// [`RUNNING`], or why it cannot be asked: `starting`, `unsupported`, `failed` or `ended`.
    pub state: String,
    /// What it said last, or why it does not run.
    #[serde(default)]
    pub says: String,
}

/// As JSON.
///
/// # Errors
/// None that are known: texts are always JSON.
pub fn list_to_json(list: &[Listed]) -> Result<String, serde_json::Error> {
    serde_json::to_string(list)
}

/// Reads such a list. Members that this version does not know are left out.
///
/// # Errors
/// When it is not such a list.
pub fn list_from_json(text: &str) -> Result<Vec<Listed>, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_can_be_read() {
        let one =
            Listed { exporter: "dns".into(), state: "unsupported".into(), says: "no \"kprobes\"".into() };
        let text = list_to_json(std::slice::from_ref(&one)).expect("JSON");
        assert_eq!(list_from_json(&text).expect("a list"), [one]);
        let later = r#"[{"exporter":"tcp","state":"running","later":1}]"#;
        assert_eq!(list_from_json(later).expect("a list")[0].says, "");
        assert!(list_from_json("{}").is_err() && list_from_json("<html>").is_err());
    }
}
