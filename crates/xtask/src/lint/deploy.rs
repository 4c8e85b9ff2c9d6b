// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is for Kubernetes: the chart and the kustomization are rendered without a cluster, compared with each other, and
//! checked against the schemas of Kubernetes and of prometheus-operator.

use std::process::Command;

use anyhow::Result;

use crate::workspace::{cache, root, run};

/// Checks all of them, in Python: Helm is there as a library for it.
///
/// # Errors
/// When something is wrong, or Python does not have what `scripts/packages` installs.
pub fn check() -> Result<()> {
    let mut python = Command::new("python3");
    // What the interpreter compiles does not belong in the tree.
    python.arg("-B").arg("deploy/tests/check.py").current_dir(root());
    run(python.env("PYTHONPATH", cache().join("tools/python")))
}
