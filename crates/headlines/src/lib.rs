// SPDX-License-Identifier: MIT OR Apache-2.0
//! The headline of an exporter: two to five numbers that answer its question.
//!
//! An exporter declares them as data ([`Headline`]) and serves them as JSON ([`Page`]) beside its
//! metrics. Whoever shows them scrapes the metrics twice and evaluates: [`Interval`]. So a client
//! needs to know neither the exporter nor its version.

pub mod amount;
mod evaluate;
mod headline;
mod histogram;
mod list;
mod page;
mod scrape;

pub use evaluate::{Interval, Reading};
pub use headline::{Alias, Headline, Measure, Selector, Text, Unit};
pub use histogram::Distribution;
pub use list::{LIST, Listed, RUNNING, list_from_json, list_to_json};
pub use page::{PATH, Page};
pub use scrape::{Kind, Labels, NotASample, Scrape, sample};
