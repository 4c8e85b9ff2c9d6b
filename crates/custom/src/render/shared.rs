// SPDX-License-Identifier: MIT OR Apache-2.0
//! Series that several configs have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use common::exposition::metric::Labels;

/// Equal series of several configs: the first config's is shown. Prometheus refuses a scrape that has
/// a series twice.
#[derive(Debug, Default)]
pub struct Shared {
    /// Full names of the metrics that occur several times, in one config or in several.
    pub names: BTreeSet<String>,
    claims: Mutex<Claims>,
}

#[derive(Debug, Default)]
struct Claims {
    scrape: u64,
    owners: BTreeMap<(String, Labels), String>,
}

impl Shared {
    /// Metrics of these names are in several configs.
    pub fn new(names: BTreeSet<String>) -> Self {
        Self { names, claims: Mutex::default() }
    }

    /// The config that has this series already in the scrape; None if it is `config`'s.
    pub fn owner(&self, scrape: u64, metric: &str, labels: &Labels, config: &str) -> Option<String> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.scrape != scrape {
            *claims = Claims { scrape, owners: BTreeMap::new() };
        }
        let owner = claims.owners.entry((metric.to_owned(), labels.clone()));
        let owner = owner.or_insert_with(|| config.to_owned());
        (owner != config).then(|| owner.clone())
    }
}
