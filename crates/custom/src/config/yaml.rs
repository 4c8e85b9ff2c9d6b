// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first document of a YAML text as a tree of nodes with their lines.
//!
//! A tree rather than serde: which type a text has depends on the field it is for (the key `0x1` of a
//! map of strings stays as written), and on quotes, and every message names a line.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

/// Most nodes of a document. The largest of ebpf_exporter's examples has 400.
const NODES: usize = 200_000;

/// A node, as an index into [`Tree`]. An alias has the index of its anchor's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(usize);

/// A document. Nodes are in one list, so that no chain of aliases, however long, needs stack.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// The outermost node; None in an empty text.
    pub root: Option<Id>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Line of the text, from 1.
    pub line: u64,
    /// What it holds.
    pub content: Content,
}

/// What a node holds.
#[derive(Debug)]
pub enum Content {
    /// A text, number or the like.
    Scalar {
        /// As written, without quotes and escapes.
        text: String,
        /// What may be made of it.
        form: Form,
    },
    /// A sequence.
    List(Vec<Id>),
    /// A mapping: keys with their values, in the order of the text.
    Map(Vec<(Id, Id)>),
}

/// What a scalar's quotes and tag say of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Neither: the text decides.
    Plain,
    /// Quotes, or a tag such as `!!str`: it is text.
    Text,
    /// `!!float`.
    Float,
}

/// Why a text is no YAML.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Line, from 1.
    pub line: u64,
    /// Reason.
    pub message: String,
}

/// A collection whose end was not read yet.
struct Open {
    id: Id,
    anchor: Option<usize>,
    /// Key that waits for its value.
    key: Option<Id>,
}

impl Tree {
    /// Parses the first document of a text.
    ///
    /// # Errors
    /// When it is not YAML, or has too many nodes.
    pub fn parse(text: &[u8]) -> Result<Self, Wrong> {
        let text = std::str::from_utf8(text).map_err(|error| {
            let before = text.get(..error.valid_up_to()).unwrap_or_default();
            let bytes = text.get(error.valid_up_to()..).unwrap_or_default();
            let byte = bytes.first().copied().unwrap_or_default();
            Wrong { line: line_after(before), message: format!("byte 0x{byte:02x} is not UTF-8") }
        })?;
        // Parsers of YAML 1.1 skip it.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut builder = Builder::default();
        for event in Parser::new_from_str_with_options(text, granit_parser::options! { emit_comments: false })
        {
            let (event, span) = event.map_err(|error| Wrong {
                line: line(error.marker().line()),
                message: error.info().lines().next().unwrap_or_default().to_owned(),
            })?;
            let line = line(span.start.line());
            match event {
                // What follows the first document is not read, not even to see whether it is YAML.
                Event::DocumentEnd => break,
                Event::SequenceEnd | Event::MappingEnd => builder.close(),
                Event::Alias(anchor) => builder.alias(anchor, line)?,
                Event::Scalar(text, style, anchor, tag) => {
                    let form = form(style, tag.as_deref(), line)?;
                    builder.add(Content::Scalar { text: text.into_owned(), form }, anchor, line)?;
                }
                Event::SequenceStart(_, anchor, _) => builder.add(Content::List(Vec::new()), anchor, line)?,
                Event::MappingStart(_, anchor, _) => builder.add(Content::Map(Vec::new()), anchor, line)?,
                _ => {}
            }
        }
        Ok(Self { nodes: builder.nodes, root: builder.root })
    }

    /// The node of an index.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0]
    }
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Node>,
    root: Option<Id>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Id>,
}

impl Builder {
    fn add(&mut self, content: Content, anchor: usize, line: u64) -> Result<(), Wrong> {
        if self.nodes.len() >= NODES {
            return Err(Wrong { line, message: format!("more than {NODES} values in one file") });
        }
        let id = Id(self.nodes.len());
        let is_scalar = matches!(content, Content::Scalar { .. });
        self.nodes.push(Node { line, content });
        self.hang(id);
        let anchor = Some(anchor).filter(|anchor| *anchor != 0);
        if is_scalar {
            self.anchors.extend(anchor.map(|anchor| (anchor, id)));
        } else {
            self.open.push(Open { id, anchor, key: None });
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: u64) -> Result<(), Wrong> {
        let Some(id) = self.anchors.get(&anchor).copied() else {
            let message = "an alias inside the value of its own anchor".to_owned();
            return Err(Wrong { line, message });
        };
        self.hang(id);
        Ok(())
    }

    /// Puts a node into the innermost open collection.
    fn hang(&mut self, id: Id) {
        let Some(parent) = self.open.last_mut() else {
            self.root.get_or_insert(id);
            return;
        };
        match &mut self.nodes[parent.id.0].content {
            Content::List(items) => items.push(id),
            Content::Map(pairs) => match parent.key.take() {
                Some(key) => pairs.push((key, id)),
                None => parent.key = Some(id),
            },
            Content::Scalar { .. } => {}
        }
    }

    fn close(&mut self) {
        // Only now, so that an alias inside it finds nothing.
        if let Some(Open { id, anchor: Some(anchor), .. }) = self.open.pop() {
            self.anchors.insert(anchor, id);
        }
    }
}

fn form(style: ScalarStyle, tag: Option<&Tag>, line: u64) -> Result<Form, Wrong> {
    let Some(tag) = tag else {
        return Ok(if style == ScalarStyle::Plain { Form::Plain } else { Form::Text });
    };
    let name = tag.suffix_in_namespace("tag:yaml.org,2002:");
    Ok(match name.as_deref() {
        Some("bool" | "int" | "null" | "timestamp") => Form::Plain,
        Some("float") => Form::Float,
        Some("binary") => {
            let message = "the tag !!binary is not supported: write the text itself".to_owned();
            return Err(Wrong { line, message });
        }
        _ => Form::Text,
    })
}

fn line(line: usize) -> u64 {
    u64::try_from(line).unwrap_or(u64::MAX).max(1)
}

/// Line of what follows these bytes.
fn line_after(bytes: &[u8]) -> u64 {
    line(bytes.iter().filter(|byte| **byte == b'\n').count().saturating_add(1))
}
