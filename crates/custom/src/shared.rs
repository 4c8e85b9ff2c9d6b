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

    /// What decides for the series of `metric` in one scrape whether `config` shows them.
    pub fn of<'s>(&'s self, scrape: u64, metric: &'s str, config: &'s str) -> Claim<'s> {
        let shared = self.names.contains(metric).then_some(self);
        Claim { shared, scrape, metric, config }
    }
}

/// The series of one metric that one config has in one scrape.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'s> {
    /// None if no other metric has this name.
    shared: Option<&'s Shared>,
    scrape: u64,
    metric: &'s str,
    config: &'s str,
}

impl Claim<'_> {
    /// The labels of a series.
    ///
    /// # Errors
    /// Why it is not shown: another config has it already.
    pub fn labels(&self, names: &[&str], values: &[String]) -> Result<Labels, String> {
        let Self { shared: Some(shared), scrape, metric, config } = *self else {
            return Ok(Labels::zip(names, values));
        };
        let labels = sorted(names, values);
        let mut claims = shared.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.scrape != scrape {
            *claims = Claims { scrape, owners: BTreeMap::new() };
        }
        let owner = claims.owners.entry((metric.to_owned(), labels.clone()));
        let owner = owner.or_insert_with(|| config.to_owned());
        if owner == config {
            return Ok(labels);
        }
        Err(format!("config {owner} has the series {{{}}} too, and that one is shown", labels.as_str()))
    }
}

/// Labels in the order of their names: keys of another map may have the same ones in another order.
fn sorted(names: &[&str], values: &[String]) -> Labels {
    let mut pairs: Vec<(&str, &String)> = names.iter().copied().zip(values).collect();
    pairs.sort();
    let mut labels = Labels::none();
    pairs.into_iter().for_each(|(name, value)| labels.push(name, value));
    labels
}
