// SPDX-License-Identifier: MIT OR Apache-2.0
//! Label values of the keys of maps and of the records of buffers.

use std::borrow::Cow;

use common::words::counted;

use super::by_name;
use super::step::{Step, Stop, readable};
use crate::config::Label;
use crate::steps::world::World;

/// Longest key or record, in bytes: much more than the kernel allows in a map's key.
const LONGEST: usize = 1 << 20;

/// The labels of a metric or span, in the order of the key's bytes.
#[derive(Debug)]
pub struct LabelSet {
    fields: Vec<Field>,
    size: usize,
}

#[derive(Debug)]
struct Field {
    name: String,
    offset: usize,
    size: usize,
    steps: Vec<Box<dyn Step>>,
}

/// Label values or why there are none, and which labels may change that.
pub(super) struct Decoded {
    pub(super) values: Result<Vec<String>, Stop>,
    pub(super) unsettled: Unsettled,
}

/// Labels whose value may change, by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unsettled(u64);

impl Unsettled {
    /// Labels from the 64th on share a bit.
    fn bit(place: usize) -> u64 {
        1 << place.min(63)
    }

    /// Whether there are none.
    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Decoded {
    fn wrong(why: String) -> Self {
        Self { values: Err(Stop::Wrong(why)), unsettled: Unsettled::default() }
    }
}

impl LabelSet {
    /// Prepares labels.
    ///
    /// # Errors
    /// When one is wrong: the line in the file, and why.
    pub fn new(labels: &[Label], world: &World) -> Result<Self, (u64, String)> {
        let (mut fields, mut offset) = (Vec::with_capacity(labels.len()), 0usize);
        for label in labels {
            let wrong = |why: String| (label.line, format!("label `{}`: {why}", label.name));
            let bytes = |n: u64| {
                let n = usize::try_from(n).ok().filter(|n| *n <= LONGEST);
                n.ok_or_else(|| wrong(format!("a size or padding is above {LONGEST}")))
            };
            let (size, padding) = (bytes(label.size)?, bytes(label.padding)?);
            if size == 0 {
                return Err(wrong("`size` is missing or 0".to_owned()));
            }
            if label.decoders.is_empty() {
                return Err(wrong("`decoders` is missing or empty".to_owned()));
            }
            let mut steps = Vec::with_capacity(label.decoders.len());
            for decoder in &label.decoders {
                let step = by_name(decoder, world);
                steps.push(step.map_err(|why| (decoder.line, format!("label `{}`: {why}", label.name)))?);
            }
            if let (Some(step), Some(decoder)) = (steps.first(), label.decoders.first())
                && !step.takes(size)
            {
                let bytes = counted(size, "byte");
                let why = format!("label `{}`: `{}` does not take {bytes}", label.name, decoder.name);
                return Err((decoder.line, why));
            }
            fields.push(Field { name: label.name.clone(), offset, size, steps });
            offset = offset.saturating_add(size).saturating_add(padding);
            if offset > LONGEST {
                return Err(wrong(format!("the labels up to this one have more than {LONGEST} bytes")));
            }
        }
        Ok(Self { fields, size: offset })
    }

    /// Names of the labels.
    #[cfg(test)]
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }

    /// Bytes that the labels and their padding take.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The label values of a key. Without labels, the key must be that of the one element of an
    /// array: 4 zero bytes.
    ///
    /// # Errors
    /// When the row is to be left out, or the key cannot be decoded.
    pub fn decode(&self, key: &[u8]) -> Result<Vec<String>, Stop> {
        self.key(key).values
    }

    pub(super) fn key(&self, key: &[u8]) -> Decoded {
        if self.fields.is_empty() && key != [0; 4] {
            return Decoded::wrong("a map without labels may have one element only, with key 0".to_owned());
        }
        if !self.fields.is_empty() && key.len() != self.size {
            let why = format!(
                "sizes and paddings of the labels add up to {}, the key has {}",
                self.size,
                counted(key.len(), "byte")
            );
            return Decoded::wrong(why);
        }
        self.values(key)
    }

    /// The label values of a record of a perf event array or ring buffer. Bytes after those of the
    /// labels do not count.
    ///
    /// # Errors
    /// When the row is to be left out, or the record cannot be decoded.
    pub fn decode_prefix(&self, record: &[u8]) -> Result<Vec<String>, Stop> {
        if record.len() < self.size {
            let why = format!(
                "sizes and paddings of the labels add up to {}, the record has only {}",
                self.size,
                counted(record.len(), "byte")
            );
            return Err(Stop::Wrong(why));
        }
        self.values(record).values
    }

    fn values(&self, bytes: &[u8]) -> Decoded {
        let (mut values, mut unsettled) = (Vec::with_capacity(self.fields.len()), 0);
        for (place, field) in self.fields.iter().enumerate() {
            let mut settled = true;
            let text = field.decode(bytes, &mut settled);
            if !settled {
                unsettled |= Unsettled::bit(place);
            }
            match text {
                Ok(text) => values.push(readable(&text)),
                Err(stop) => return Decoded { values: Err(stop), unsettled: Unsettled(unsettled) },
            }
        }
        Decoded { values: Ok(values), unsettled: Unsettled(unsettled) }
    }

    /// Whether the unsettled labels of a key still have these values, and are still unsettled.
    pub(super) fn is_unchanged(&self, key: &[u8], values: &[String], unsettled: Unsettled) -> bool {
        self.fields.iter().zip(values).enumerate().all(|(place, (field, value))| {
            if unsettled.0 & Unsettled::bit(place) == 0 {
                return true;
            }
            let mut settled = true;
            let text = field.decode(key, &mut settled);
            !settled && text.is_ok_and(|text| *text == *value.as_bytes())
        })
    }
}

impl Field {
    /// The value in a key or record. Clears `settled` if a step's result may change.
    fn decode<'b>(&self, bytes: &'b [u8], settled: &mut bool) -> Result<Cow<'b, [u8]>, Stop> {
        let mut text = Cow::Borrowed(bytes.get(self.offset..self.offset + self.size).unwrap_or_default());
        for step in &self.steps {
            text = step.decode(text).map_err(|stop| match stop {
                Stop::Wrong(why) => Stop::Wrong(format!("label `{}`: {why}", self.name)),
                Stop::Skip => Stop::Skip,
            })?;
            *settled &= step.is_settled(&text);
        }
        Ok(text)
    }
}
