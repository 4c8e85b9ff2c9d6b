// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes fields of certain types out of a YAML document, and says which value has another type.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

use super::scalar::{self, Value};
use super::types::Finding;
use super::yaml::{Content, Form, Id, Tree, Wrong};

/// Bytes that the values read may take, those of aliases as often as they are used.
const BUDGET: usize = 16 << 20;

/// What a value without text takes of it.
const VALUE: usize = 16;

/// Nesting of merges within merges.
const MERGES: usize = 16;

/// Unknown keys that are named.
const UNKNOWN: usize = 100;

/// Result of reading a value.
pub type Result<T> = std::result::Result<T, Wrong>;

/// A step of the path to a value.
#[derive(Debug)]
enum Step {
    Key(&'static str),
    Item(usize),
}

/// Reads a document from its outermost value to its innermost.
#[derive(Debug)]
pub struct Walker<'t> {
    tree: &'t Tree,
    path: Vec<Step>,
    findings: Vec<Finding>,
    unknown: usize,
    budget: usize,
    merges: usize,
}

impl<'t> Walker<'t> {
    /// Starts at the outermost value.
    pub fn new(tree: &'t Tree) -> Self {
        Self { tree, path: Vec::new(), findings: Vec::new(), unknown: 0, budget: BUDGET, merges: 0 }
    }

    /// What was found beside the values.
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    /// Line of a value.
    pub fn line(&self, id: Id) -> u64 {
        self.tree.node(id).line
    }

    /// Reads a mapping into a struct: calls `set` for each known key. A null resets the struct.
    ///
    /// # Errors
    /// When it is no mapping, or `set` fails.
    pub fn fields<T: Default>(
        &mut self,
        id: Id,
        known: &'static [&'static str],
        out: &mut T,
        mut set: impl FnMut(&mut Self, &'static str, Id, &mut T) -> Result<()>,
    ) -> Result<()> {
        if self.is_null(id) {
            *out = T::default();
            return Ok(());
        }
        self.pairs(id, &mut |walker, key, value| {
            let name = walker.text(key)?;
            let Some(key) = known.iter().find(|key| **key == name) else {
                walker.add_unknown(key, &name, known);
                return Ok(());
            };
            walker.path.push(Step::Key(key));
            set(walker, key, value, out)?;
            walker.path.pop();
            Ok(())
        })
    }

    /// Reads a list. None if it is null.
    ///
    /// # Errors
    /// When it is no list, or `each` fails.
    pub fn list<T: Default>(
        &mut self,
        id: Id,
        mut each: impl FnMut(&mut Self, Id, &mut T) -> Result<()>,
    ) -> Result<Option<Vec<T>>> {
        if self.is_null(id) {
            return Ok(None);
        }
        let Content::List(items) = &self.tree.node(id).content else {
            return Err(self.expected(id, "a list"));
        };
        let mut list = Vec::new();
        for (at, item) in items.iter().enumerate() {
            self.charge(id, size_of::<T>())?;
            self.path.push(Step::Item(at));
            let mut value = T::default();
            each(self, *item, &mut value)?;
            list.push(value);
            self.path.pop();
        }
        Ok(Some(list))
    }

    /// Reads a mapping of texts. Keys are added to those that are there; null removes the mapping.
    ///
    /// # Errors
    /// When it is no mapping, or has other values.
    pub fn words(&mut self, id: Id, out: &mut Option<BTreeMap<String, String>>) -> Result<()> {
        if self.is_null(id) {
            *out = None;
            return Ok(());
        }
        let words = out.get_or_insert_default();
        self.pairs(id, &mut |walker, key, value| {
            let key = walker.text(key)?;
            words.insert(key, walker.text(value)?);
            Ok(())
        })
    }

    /// Reads a text: a scalar as it is written, whatever it looks like.
    ///
    /// # Errors
    /// When it is no scalar.
    pub fn text(&mut self, id: Id) -> Result<String> {
        match (&self.tree.node(id).content, self.value(id)?) {
            (_, Some(Value::Null)) => Ok(String::new()),
            (Content::Scalar { text, .. }, _) => {
                self.charge(id, text.len())?;
                Ok(text.clone())
            }
            _ => Err(self.expected(id, "text")),
        }
    }

    /// Reads a boolean.
    ///
    /// # Errors
    /// When it is something else.
    pub fn boolean(&mut self, id: Id) -> Result<bool> {
        match self.value(id)? {
            Some(Value::Bool(value)) => Ok(value),
            Some(Value::Null) => Ok(false),
            _ => Err(self.expected(id, "true or false")),
        }
    }

    /// Reads a number.
    ///
    /// # Errors
    /// When it is something else.
    pub fn number(&mut self, id: Id) -> Result<f64> {
        match self.value(id)? {
            Some(Value::Int(value)) => Ok(value as f64),
            Some(Value::Float(value)) => Ok(value),
            Some(Value::Null) => Ok(0.0),
            _ => Err(self.expected(id, "a number")),
        }
    }

    /// Reads an integer.
    ///
    /// # Errors
    /// When it is something else, or out of range.
    pub fn signed(&mut self, id: Id) -> Result<i64> {
        let value = self.integer(id)?.and_then(|value| i64::try_from(value).ok());
        value.ok_or_else(|| self.expected(id, "a whole number of 64 bits"))
    }

    /// Reads an integer that is not negative.
    ///
    /// # Errors
    /// When it is something else, or out of range.
    pub fn unsigned(&mut self, id: Id) -> Result<u64> {
        let value = self.integer(id)?.and_then(|value| u64::try_from(value).ok());
        value.ok_or_else(|| self.expected(id, "a whole number, 0 or more"))
    }

    /// Reads a duration in nanoseconds: text such as `1h30m`, or their number.
    ///
    /// # Errors
    /// When it is something else, or negative.
    pub fn duration(&mut self, id: Id) -> Result<u64> {
        let value = match (&self.tree.node(id).content, self.value(id)?) {
            (Content::Scalar { text, .. }, Some(Value::Text)) => scalar::duration(text),
            _ => self.integer(id)?,
        };
        let value = value.and_then(|value| u64::try_from(value).ok());
        let value = value.filter(|value| i64::try_from(*value).is_ok());
        value.ok_or_else(|| self.expected(id, "a duration such as 10s or 1h30m"))
    }

    fn integer(&mut self, id: Id) -> Result<Option<i128>> {
        Ok(match self.value(id)? {
            Some(Value::Int(value)) => Some(value),
            // The fraction is cut off, as there.
            Some(Value::Float(value)) if value.is_finite() => Some(value as i128),
            Some(Value::Null) => Some(0),
            _ => None,
        })
    }

    /// The type of a scalar; None for a list or mapping.
    fn value(&mut self, id: Id) -> Result<Option<Value>> {
        self.charge(id, VALUE)?;
        Ok(match &self.tree.node(id).content {
            Content::Scalar { text, form } => Some(scalar::resolve(text, *form)),
            _ => None,
        })
    }

    fn is_null(&self, id: Id) -> bool {
        match &self.tree.node(id).content {
            Content::Scalar { text, form } => scalar::resolve(text, *form) == Value::Null,
            _ => false,
        }
    }

    fn charge(&mut self, id: Id, bytes: usize) -> Result<()> {
        match self.budget.checked_sub(bytes) {
            Some(left) => self.budget = left,
            None => return Err(self.wrong(id, "aliases repeat too much: write fewer values")),
        }
        Ok(())
    }

    /// Calls `each` for the pairs of a mapping, and for those of the mappings merged into it, in order.
    fn pairs(&mut self, id: Id, each: &mut dyn FnMut(&mut Self, Id, Id) -> Result<()>) -> Result<()> {
        let Content::Map(pairs) = &self.tree.node(id).content else {
            return Err(self.expected(id, "a mapping"));
        };
        for (key, value) in pairs {
            self.charge(*key, VALUE)?;
            if self.is_merge(*key) {
                self.merges += 1;
                if self.merges > MERGES {
                    return Err(self.wrong(*key, "merges (<<) are nested too deeply"));
                }
                match &self.tree.node(*value).content {
                    Content::Map(_) => self.pairs(*value, each)?,
                    // Earlier ones win.
                    Content::List(items) => {
                        for item in items.iter().rev() {
                            self.pairs(*item, each)?;
                        }
                    }
                    Content::Scalar { .. } => {
                        return Err(self.wrong(*value, "a merge (<<) takes a mapping, or a list of mappings"));
                    }
                }
                self.merges -= 1;
            } else {
                each(self, *key, *value)?;
            }
        }
        Ok(())
    }

    fn is_merge(&self, id: Id) -> bool {
        matches!(&self.tree.node(id).content, Content::Scalar { text, form: Form::Plain } if text == "<<")
    }

    fn add_unknown(&mut self, key: Id, name: &str, known: &[&str]) {
        self.unknown += 1;
        if self.unknown > UNKNOWN {
            return;
        }
        let message = if self.unknown == UNKNOWN {
            "unknown keys from here on are ignored as well, and not named".to_owned()
        } else {
            format!("{self}unknown key `{}` is ignored; known keys: {}", shown(name), known.join(", "))
        };
        self.findings.push(Finding { line: self.line(key), message, fatal_when_strict: false });
    }

    fn wrong(&self, id: Id, why: &str) -> Wrong {
        Wrong { line: self.line(id), message: format!("{self}{why}") }
    }

    fn expected(&self, id: Id, what: &str) -> Wrong {
        let found = match &self.tree.node(id).content {
            Content::List(_) => "a list".to_owned(),
            Content::Map(_) => "a mapping".to_owned(),
            Content::Scalar { text, form } => {
                let plain = scalar::resolve(text, Form::Plain);
                // The quotes, or a tag, are why it has another type than it seems to have.
                let is_quoted = *form == Form::Text && !matches!(plain, Value::Text | Value::Null);
                format!("{}`{}`", if is_quoted { "the quoted text " } else { "" }, shown(text))
            }
        };
        self.wrong(id, &format!("expected {what}, found {found}"))
    }
}

/// The path to the current value, such as `metrics.counters[0].labels: `; nothing at the top.
impl Display for Walker<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (at, step) in self.path.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Item(item) => write!(f, "[{item}]")?,
            }
        }
        if self.path.is_empty() { Ok(()) } else { f.write_str(": ") }
    }
}

/// A text for a message: its beginning, in one line.
pub fn shown(text: &str) -> String {
    const LENGTH: usize = 60;
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == LENGTH {
            shown.push_str("...");
            break;
        }
        match c {
            '`' | '"' | '\'' => shown.push(c),
            c => _ = write!(shown, "{}", c.escape_debug()),
        }
    }
    shown
}
