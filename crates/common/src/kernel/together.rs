// SPDX-License-Identifier: MIT OR Apache-2.0
//! libbpf loads all programs of an object or none. Here the refused ones are found.

use std::collections::BTreeSet;

use anyhow::Result;
use libbpf_rs::Error;

use crate::kernel::probes::Refused;
use crate::kernel::refusal::{self, Obstacles};

/// Why an object could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// The kernel refused these programs, at least one; the others may work.
    Programs(Refused),
    /// The kernel refuses the object as such, or eBPF altogether. The text says what the user can do.
    Object(String),
}

/// Finds the refused programs after an object could not be loaded with the `wanted` ones. `load_only`
/// loads an object with the given programs and no others, and returns the error if that is refused.
///
/// # Errors
/// When `load_only` fails for another reason than a refusal.
pub fn why_not_loaded(
    error: &Error,
    wanted: &BTreeSet<&str>,
    load_only: impl Fn(&BTreeSet<&str>) -> Result<Option<Error>>,
) -> Result<WhyNot> {
    let why = refusal::with_details(error);
    let whole = || Ok(WhyNot::Object(Obstacles::now().explain(&why)));
    // If loading fails even without programs, the reason is a map or a missing permission.
    if load_only(&BTreeSet::new())?.is_some() {
        return whole();
    }
    let mut refused = Refused::new();
    for program in wanted {
        if let Some(error) = load_only(&[*program].into())? {
            refused.insert((*program).to_owned(), refusal::with_details(&error));
        }
    }
    if refused.is_empty() { whole() } else { Ok(WhyNot::Programs(refused)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Error {
        Error::from_raw_os_error(libc::EINVAL)
    }

    #[test]
    fn programs_refused_alone_are_named() {
        let wanted = ["bad", "good", "worse"].into();
        let load = |programs: &BTreeSet<&str>| {
            Ok((programs.contains("bad") || programs.contains("worse")).then(error))
        };
        let Ok(WhyNot::Programs(refused)) = why_not_loaded(&error(), &wanted, load) else {
            panic!("programs are to blame")
        };
        assert_eq!(refused.into_keys().collect::<Vec<_>>(), ["bad", "worse"]);
    }

    #[test]
    fn the_object_is_to_blame_if_each_program_loads_or_none_does() {
        let wanted = ["a", "b"].into();
        for refuses in [true, false] {
            let why = why_not_loaded(&error(), &wanted, |_| Ok(refuses.then(error))).expect("a reason");
            assert!(matches!(why, WhyNot::Object(_)), "{why:?}");
        }
    }
}
