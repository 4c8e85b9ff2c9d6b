// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of kernel addresses, from /proc/kallsyms.
//!
//! A kernel has 100,000 to 300,000 symbols, 5 to 15 MB of text of which a config uses a few names.
//! So they are kept compressed, in blocks of neighbours; a look-up unpacks one block.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::kernel::symbols;
use flate2::Compression;
use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// Symbols in one block.
const BLOCK: usize = 256;

/// Look-ups that are remembered: stacks repeat the same addresses. When there are more, all go.
const REMEMBERED: usize = 4096;

/// How often to look for new modules, at most.
const MODULES: Duration = Duration::from_secs(10);

/// Bytes of an address in a block.
const WORD: usize = size_of::<u64>();

/// The symbols of the kernel and of its modules.
#[derive(Debug)]
pub struct Kallsyms {
    file: PathBuf,
    modules: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Table,
    /// The symbols at or below addresses that were looked up.
    remembered: HashMap<u64, Option<Found>>,
    /// The modules when the symbols were read, and when that was looked at last.
    modules: u64,
    looked: Option<Instant>,
}

/// A symbol's address and name.
type Found = (u64, Box<[u8]>);

impl State {
    fn nearest(&mut self, address: u64) -> Option<&Found> {
        if self.remembered.len() >= REMEMBERED && !self.remembered.contains_key(&address) {
            self.remembered.clear();
        }
        let table = &self.table;
        self.remembered.entry(address).or_insert_with(|| table.nearest(address)).as_ref()
    }

    fn exact(&mut self, address: u64) -> Option<Vec<u8>> {
        let found = self.nearest(address).filter(|(start, _)| *start == address);
        found.map(|(_, name)| name.to_vec())
    }
}

impl Kallsyms {
    /// Reads the symbols in `file`, and the addresses of `wanted` beside them. `modules` is
    /// /proc/modules: symbols are read again when it has changed and an address is unknown.
    ///
    /// # Errors
    /// When `file` cannot be read.
    pub fn read(file: &Path, modules: &Path, wanted: &mut Addresses) -> io::Result<Self> {
        // Before the symbols, so that a module in between is found later.
        let before = fingerprint(modules);
        let table = Table::read(file, wanted)?;
        let state = State { table, remembered: HashMap::new(), modules: before, looked: None };
        Ok(Self { file: file.to_owned(), modules: modules.to_owned(), state: Mutex::new(state) })
    }

    /// Whether the kernel hides the addresses from this process.
    pub fn is_hidden(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).table.blocks.is_empty()
    }

    /// The name of the symbol at exactly this address; that of a module is followed by a tab and
    /// `[MODULE]`.
    pub fn exact(&self, address: u64) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.exact(address);
        if known.is_none() && self.read_again(&mut state) {
            return state.exact(address);
        }
        known
    }

    /// The names of the symbols at or below the addresses.
    pub fn nearest(&self, addresses: &[u64]) -> Vec<Option<Vec<u8>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = |address: &u64| state.nearest(*address).map(|(_, name)| name.to_vec());
        addresses.iter().map(&mut name).collect()
    }

    /// Reads the symbols again if modules have come or gone. Returns whether it did.
    fn read_again(&self, state: &mut State) -> bool {
        let now = Instant::now();
        if state.looked.is_some_and(|last| now.duration_since(last) < MODULES) {
            return false;
        }
        state.looked = Some(now);
        let modules = fingerprint(&self.modules);
        if modules == state.modules {
            return false;
        }
        state.modules = modules;
        match Table::read(&self.file, &mut Addresses::default()) {
            // Without CAP_SYSLOG, which may have been dropped, all addresses are hidden.
            Ok(table) if !table.blocks.is_empty() => {
                state.table = table;
                state.remembered.clear();
                true
            }
            _ => false,
        }
    }
}

/// A number that changes when modules come or go.
fn fingerprint(modules: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let text = fs::read(modules).unwrap_or_default();
    // The first word is the name, the last one the address or 0. Those between count users.
    for line in text.split(|byte| *byte == b'\n') {
        line.split(|byte| *byte == b' ').next().hash(&mut hasher);
    }
    hasher.finish()
}

/// Addresses by symbol.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    wanted: BTreeSet<String>,
    found: BTreeMap<String, u64>,
}

impl Addresses {
    /// The addresses of `names`, once they are read.
    pub fn of(names: BTreeSet<String>) -> Self {
        Self { wanted: names, found: BTreeMap::new() }
    }

    /// Reads only the addresses.
    ///
    /// # Errors
    /// When `file` cannot be read.
    pub fn read(&mut self, file: &Path) -> io::Result<()> {
        symbols::each(open(file)?, |symbol| self.see(symbol))
    }

    fn see(&mut self, symbol: symbols::Symbol) {
        // Variables of modules cannot be named.
        if symbol.module.is_none()
            && let Ok(name) = std::str::from_utf8(symbol.name)
            && self.wanted.contains(name)
            && let Some(address) = symbol.address()
        {
            // Of several, the last one.
            self.found.insert(name.to_owned(), address);
        }
    }

    /// The address of a symbol.
    ///
    /// # Errors
    /// When there is none, or it is hidden, and what to do.
    pub fn get(&self, name: &str) -> Result<u64, String> {
        match self.found.get(name) {
            Some(0) => Err(format!(
                "the address of kernel symbol `{name}` is hidden: start as root or with CAP_SYSLOG, and look at sysctl kernel.kptr_restrict"
            )),
            Some(address) => Ok(*address),
            None => Err(format!(
                "no kernel symbol `{name}` in {}; those of variables need CONFIG_KALLSYMS_ALL",
                symbols::KALLSYMS
            )),
        }
    }
}

fn open(file: &Path) -> io::Result<impl BufRead> {
    Ok(BufReader::with_capacity(64 << 10, File::open(file)?))
}

/// Symbols in the order of their addresses.
#[derive(Debug, Default)]
struct Table {
    blocks: Vec<Block>,
    packed: Vec<u8>,
}

#[derive(Debug)]
struct Block {
    /// Address of the first symbol.
    first: u64,
    /// Place in `packed` of the addresses and of the lines with the names.
    start: usize,
}

impl Table {
    fn read(file: &Path, wanted: &mut Addresses) -> io::Result<Self> {
        let (mut names, mut order) = (Vec::new(), Vec::new());
        symbols::each(open(file)?, |symbol| {
            wanted.see(symbol);
            // Hidden, or an offset into the area of each CPU.
            if let Some(address) = symbol.address().filter(|address| *address != 0) {
                order.push((address, names.len()));
                names.extend_from_slice(symbol.name);
                if let Some(module) = symbol.module {
                    names.extend([b"\t[", module, b"]"].concat());
                }
                names.push(b'\n');
            }
        })?;
        // Names of one address keep their order. Look-ups find the last one.
        order.sort_by_key(|(address, _)| *address);
        let mut table = Self::default();
        let mut rest = order.as_slice();
        while let Some((first, _)) = rest.first() {
            // All names of an address are in one block.
            let end = rest.get(BLOCK).map_or(rest.len(), |next| {
                let same = rest[BLOCK..].iter().take_while(|symbol| symbol.0 == next.0).count();
                if rest[BLOCK - 1].0 == next.0 { BLOCK + same } else { BLOCK }
            });
            let (block, after) = rest.split_at(end);
            table.blocks.push(Block { first: *first, start: table.packed.len() });
            let mut packer = DeflateEncoder::new(&mut table.packed, Compression::default());
            packer.write_all(&u64::try_from(block.len()).unwrap_or_default().to_ne_bytes())?;
            for (address, _) in block {
                packer.write_all(&address.to_ne_bytes())?;
            }
            for (_, name) in block {
                let line = names[*name..].split_inclusive(|byte| *byte == b'\n').next();
                packer.write_all(line.unwrap_or(b"\n"))?;
            }
            packer.finish()?;
            rest = after;
        }
        table.packed.shrink_to_fit();
        table.blocks.shrink_to_fit();
        Ok(table)
    }

    /// The last symbol at or below an address.
    fn nearest(&self, address: u64) -> Option<Found> {
        let block = self.blocks.partition_point(|block| block.first <= address).checked_sub(1)?;
        let mut unpacked = Vec::new();
        // Written by ourselves: an error would be a bug, and costs a name.
        DeflateDecoder::new(self.packed.get(self.blocks[block].start..)?).read_to_end(&mut unpacked).ok()?;
        let (words, _) = unpacked.as_chunks::<WORD>();
        let mut words = words.iter().map(|word| u64::from_ne_bytes(*word));
        let count = usize::try_from(words.next()?).ok()?;
        let (at, found) = words.take(count).enumerate().take_while(|(_, start)| *start <= address).last()?;
        let name = unpacked.get((1 + count) * WORD..)?.split(|byte| *byte == b'\n').nth(at)?;
        Some((found, name.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::scratch::Scratch;

    #[test]
    fn symbols_are_found_in_blocks_of_any_size() {
        let folder = Scratch::new("symbols");
        let modules = folder.write("modules", "");
        for count in [0u64, 1, 255, 256, 257, 512, 3000] {
            let line = |n: u64| format!("{:016x} T f{n}\n", 0xffff_ffff_8100_0000 + n * 16);
            let mut text: String = (0..count).rev().map(line).collect();
            text.insert_str(0, "0000000000000000 A percpu\n");
            let file = folder.write("kallsyms", &text);
            let symbols = Kallsyms::read(&file, &modules, &mut Addresses::default()).unwrap();
            assert_eq!(symbols.is_hidden(), count == 0);
            for n in 0..count {
                let address = 0xffff_ffff_8100_0000 + n * 16;
                let name = format!("f{n}").into_bytes();
                assert_eq!(symbols.exact(address), Some(name.clone()), "{count}");
                assert_eq!(symbols.exact(address + 1), None);
                assert_eq!(symbols.nearest(&[address + 15]), [Some(name)]);
            }
            assert_eq!(symbols.nearest(&[0, 0xffff_ffff_80ff_ffff]), [None, None]);
        }
    }

    #[test]
    fn of_names_of_one_address_the_last_is_shown() {
        let folder = Scratch::new("aliases");
        let before: String = (0..255).map(|n| format!("{:x} t f{n}\n", 0x1000 + n)).collect();
        let aliases: String = (0..600).map(|n| format!("2000 t alias{n}\n")).collect();
        let file = folder.write("kallsyms", &format!("{before}{aliases}3000 t after\n"));
        let symbols = Kallsyms::read(&file, &folder.write("modules", ""), &mut Addresses::default()).unwrap();
        assert_eq!(symbols.exact(0x2000), Some(b"alias599".to_vec()));
        assert_eq!(symbols.nearest(&[0x2fff, 0x9000]), [Some(b"alias599".to_vec()), Some(b"after".to_vec())]);
    }

    #[test]
    fn symbols_of_later_modules_are_found() {
        let folder = Scratch::new("modules");
        let file = folder.write("kallsyms", "1000 t f\n");
        let modules = folder.write("modules", "one 4096 0 - Live 0x0\n");
        let symbols = Kallsyms::read(&file, &modules, &mut Addresses::default()).unwrap();
        folder.write("kallsyms", "1000 t f\n2000 t g\t[two]\n");
        assert_eq!(symbols.exact(0x2000), None, "no module has come");
        folder.write("modules", "two 4096 0 - Live 0x0\n");
        assert_eq!(symbols.exact(0x2000), None, "looked at a moment ago");
        symbols.state.lock().unwrap().looked = None;
        assert_eq!(symbols.exact(0x2000), Some(b"g\t[two]".to_vec()));
        // Without CAP_SYSLOG the addresses are zeros: what is known stays.
        folder.write("kallsyms", "0000 t f\n0000 t g\t[two]\n");
        folder.write("modules", "three 4096 0 - Live 0x0\n");
        symbols.state.lock().unwrap().looked = None;
        assert_eq!(symbols.exact(0x3000), None);
        assert_eq!(symbols.exact(0x2000), Some(b"g\t[two]".to_vec()));
    }

    #[test]
    fn addresses_of_names_are_read() {
        let folder = Scratch::new("addresses");
        let file = folder.write("kallsyms", "10 t f\n20 D v\n30 D v\n40 d m\t[zfs]\n0 D hidden\n");
        let names = ["f", "v", "m", "hidden", "absent"];
        let mut addresses = Addresses::of(names.map(str::to_owned).into());
        addresses.read(&file).unwrap();
        assert_eq!([addresses.get("f"), addresses.get("v")], [Ok(0x10), Ok(0x30)]);
        for (name, why) in
            [("m", "no kernel symbol `m`"), ("absent", "CONFIG_KALLSYMS_ALL"), ("hidden", "CAP_SYSLOG")]
        {
            assert!(addresses.get(name).unwrap_err().contains(why), "{name}");
        }
        assert!(addresses.read(Path::new("/nonexistent")).is_err());
    }

    /// The kernel of this machine: the names take less than a quarter of their text.
    #[test]
    fn a_real_kernel_takes_little_memory() {
        let text = fs::read(symbols::KALLSYMS).unwrap_or_default();
        let symbols = Kallsyms::read(
            Path::new(symbols::KALLSYMS),
            Path::new("/proc/modules"),
            &mut Addresses::default(),
        );
        let state = symbols.unwrap().state.into_inner().unwrap();
        let bytes = state.table.packed.capacity() + state.table.blocks.capacity() * size_of::<Block>();
        assert!(bytes <= text.len() / 4, "{bytes} of {}", text.len());
    }
}
