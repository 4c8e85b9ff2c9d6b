// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoders `pci_vendor`, `pci_device`, `pci_class` and `pci_subclass`: names of pci.ids.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;

use super::step::{Step, Stop, unsigned};

/// What every decoder gives where there is no pci.ids.
const MISSING: &str = "missing pci.ids db";

/// Longest pci.ids, unpacked, in bytes. Those of today have 1.5 MB.
const LONGEST: u64 = 32 << 20;

/// What a name is the name of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Id {
    Vendor(u32),
    /// `vendor << 16 | device`.
    Device(u32),
    Class(u32),
    /// `class << 8 | subclass`.
    Subclass(u32),
}

/// The names of pci.ids.
#[derive(Debug, Default)]
pub struct PciIds {
    /// Places in `names`, in the order of the ids.
    places: Vec<(Id, u32)>,
    /// Names, each ended by a newline.
    names: String,
}

impl PciIds {
    /// Reads the first of `files` that exists. None if there is none.
    pub fn read<P: AsRef<Path>>(files: &[P]) -> Option<Self> {
        let (path, file) = files.iter().find_map(|file| Some((file.as_ref(), File::open(file).ok()?)))?;
        let read = if path.extension().is_some_and(|extension| extension == "gz") {
            Self::parse(BufReader::new(GzDecoder::new(file).take(LONGEST)))
        } else {
            Self::parse(BufReader::new(file.take(LONGEST)))
        };
        if let Err(error) = &read {
            log::warn!("cannot read {}: {error}", path.display());
        }
        read.ok()
    }

    fn parse(mut lines: impl BufRead) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        let (mut names, mut line) = (String::new(), Vec::new());
        // The vendor or class that the lines below belong to.
        let mut above = None;
        while lines.read_until(b'\n', &mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            let id = if let Some(inner) = text.strip_prefix('\t') {
                above.and_then(|above| match above {
                    Id::Vendor(vendor) => {
                        hex(inner, 4).map(|(id, name)| (Id::Device(vendor << 16 | id), name))
                    }
                    Id::Class(class) => hex(inner, 2).map(|(id, name)| (Id::Subclass(class << 8 | id), name)),
                    _ => None,
                })
            } else if text.is_empty() || text.starts_with('#') {
                None
            } else {
                let class = text.strip_prefix("C ").and_then(|class| hex(class, 2));
                let id = class.map(|(id, name)| (Id::Class(id), name));
                let id = id.or_else(|| hex(text, 4).map(|(id, name)| (Id::Vendor(id), name)));
                above = id.map(|(id, _)| id);
                id
            };
            if let Some((id, name)) = id {
                found.insert(id, u32::try_from(names.len()).unwrap_or(u32::MAX));
                names.push_str(name);
                names.push('\n');
            }
            line.clear();
        }
        names.shrink_to_fit();
        Ok(Self { places: found.into_iter().collect(), names })
    }

    fn name(&self, id: Id) -> Option<&str> {
        let at = self.places.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let start = usize::try_from(self.places[at].1).ok()?;
        self.names.get(start..)?.split('\n').next()
    }
}

/// An id of so many digits, two blanks, and a name.
fn hex(line: &str, digits: usize) -> Option<(u32, &str)> {
    let (id, name) = line.split_at_checked(digits)?;
    let id = id.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(id)?;
    Some((u32::from_str_radix(id, 16).ok()?, name.strip_prefix("  ")?.trim_start()))
}

/// What a step names.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `pci_vendor`: a vendor's number.
    Vendor,
    /// `pci_device`: `vendor << 16 | device`.
    Device,
    /// `pci_class`: a class's number.
    Class,
    /// `pci_subclass`: `class << 8 | subclass`.
    Subclass,
}

/// A decoder of numbers as decimal text.
#[derive(Debug)]
pub struct Pci {
    /// What it names.
    pub kind: Kind,
    /// The names; None: there is no pci.ids.
    pub ids: Option<Arc<PciIds>>,
}

impl Step for Pci {
    fn decode<'b>(&self, bytes: Cow<'b, [u8]>) -> Result<Cow<'b, [u8]>, Stop> {
        let Some(ids) = &self.ids else { return Ok(Cow::Borrowed(MISSING.as_bytes())) };
        let n = unsigned(&bytes)?;
        let known = |id: fn(u32) -> Id| u32::try_from(n).ok().and_then(|n| ids.name(id(n)));
        let (class, subclass) = (n >> 8, n & 0xff);
        let text = match self.kind {
            Kind::Vendor => {
                known(Id::Vendor).map_or_else(|| format!("unknown pci vendor: 0x{n:02x}"), str::to_owned)
            }
            Kind::Device => {
                known(Id::Device).map_or_else(|| format!("unknown pci device: 0x{n:08x}"), str::to_owned)
            }
            Kind::Class => {
                known(Id::Class).map_or_else(|| format!("unknown pci class: 0x{n:02x}"), str::to_owned)
            }
            Kind::Subclass => match known(Id::Subclass) {
                Some(name) => name.to_owned(),
                None if u32::try_from(class).is_ok_and(|class| ids.name(Id::Class(class)).is_some()) => {
                    format!("unknown pci subclass: 0x{subclass:02x} (class 0x{class:02x})")
                }
                None => format!("unknown pci class: 0x{class:02x}"),
            },
        };
        Ok(Cow::Owned(text.into_bytes()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::steps::scratch::Scratch;

    /// A made-up pci.ids.
    pub const IDS: &str = "\
# comment
0e11  Maker One
\t0001  Small Thing
\t\t0e11 4091  Of Somebody
8086  Maker Two
\t1237  Bridge [Model]
bad line
\t0007  Of nobody

C 02  Network thing
\t00  Wired thing
\t\t01  Fast
C 0c  Bus thing
\t03  Plug thing
";

    #[test]
    fn the_first_file_counts_packed_or_not() {
        let folder = Scratch::new("pci");
        let plain = folder.write("pci.ids", IDS);
        let packed = folder.path().join("pci.ids.gz");
        let mut packer = GzEncoder::new(File::create(&packed).unwrap(), Compression::fast());
        packer.write_all(IDS.as_bytes()).unwrap();
        packer.finish().unwrap();
        let absent = folder.path().join("absent");
        for files in [[&absent, &plain], [&packed, &absent]] {
            let ids = PciIds::read(&files).unwrap();
            assert_eq!(ids.name(Id::Vendor(0x0e11)), Some("Maker One"));
            assert_eq!(ids.name(Id::Device(0x8086_1237)), Some("Bridge [Model]"));
            assert_eq!(ids.name(Id::Subclass(0x0c03)), Some("Plug thing"));
            assert_eq!(ids.places.len(), 8);
        }
        assert!(PciIds::read(&[absent]).is_none());
        let broken = folder.write("broken.gz", "no gzip");
        assert!(PciIds::read(&[broken]).is_none());
    }
}
