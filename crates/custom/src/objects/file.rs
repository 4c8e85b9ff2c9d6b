// SPDX-License-Identifier: MIT OR Apache-2.0
//! Object files: read once, checked, and opened from memory. So a file that is replaced meanwhile
//! changes nothing, and libbpf reads no file that ends too early.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use common::kernel::globals::{Variable, is_of_variables};
use common::kernel::refusal;
use libbpf_rs::{ObjectBuilder, OpenObject};
use object::{Architecture, Object, ObjectKind, ObjectSection, ObjectSymbol, SymbolSection};

/// Largest size of an object file. The largest known ones have 2 MB.
const MAX_BYTES: u64 = 64 << 20;

/// An object file in memory.
#[derive(Debug)]
pub struct ObjectFile {
    path: PathBuf,
    /// The object's name for libbpf: the file's name up to the first dot.
    name: String,
    bytes: Vec<u8>,
}

impl ObjectFile {
    /// Reads an object file and checks that it is complete.
    ///
    /// # Errors
    /// When it cannot be read, or is no object with BPF programs for this machine.
    pub fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Vec<u8>> {
            // A pipe would wait for its writer, and a device may never end.
            ensure!(path.metadata()?.is_file(), "it is not a regular file");
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().with_context(|| format!("failed to read {}", path.display()))?;
        let file = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
        let name = file.split('.').next().unwrap_or_default().to_owned();
        check(&bytes).with_context(|| format!("{} is no usable BPF object", path.display()))?;
        Ok(Self { path: path.to_owned(), name, bytes })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it. `btf` replaces the kernel's own BTF.
    ///
    /// # Errors
    /// When libbpf rejects the object.
    pub fn open(&self, btf: Option<&Path>) -> Result<OpenObject> {
        let mut builder = ObjectBuilder::default();
        if let Some(path) = btf {
            // libbpf's own error does not name the file.
            File::open(path).with_context(|| format!("--btf.path: failed to open {}", path.display()))?;
            builder.btf_custom_path(path).context("--btf.path")?;
        }
        refusal::forget_details();
        let opened = builder.name(&self.name).and_then(|builder| builder.open_memory(&self.bytes));
        opened.map_err(|error| {
            anyhow::anyhow!(
                "{}: libbpf cannot open it: {}",
                self.path.display(),
                refusal::with_details(&error)
            )
        })
    }

    /// The global variable of that name, by the file's symbols.
    pub fn variable(&self, name: &str) -> Option<Variable> {
        let file = object::File::parse(&*self.bytes).ok()?;
        file.symbols().filter(|symbol| symbol.name() == Ok(name)).find_map(|symbol| {
            let SymbolSection::Section(index) = symbol.section() else { return None };
            let section = file.section_by_index(index).ok()?.name().ok()?.to_owned();
            is_of_variables(&section).then(|| Variable {
                name: name.to_owned(),
                section,
                offset: symbol.address() as usize,
                size: symbol.size() as usize,
            })
        })
    }
}

/// Checks that an object is one with BPF programs and that all of its parts are in the file.
fn check(bytes: &[u8]) -> Result<()> {
    ensure!(!bytes.is_empty(), "the file is empty");
    ensure!(bytes.len() as u64 <= MAX_BYTES, "the file is larger than {MAX_BYTES} bytes");
    let file = object::File::parse(bytes).context("it is no ELF file, or it ends too early")?;
    if file.architecture() != Architecture::Bpf || file.kind() != ObjectKind::Relocatable {
        bail!("it has no BPF programs: compile it with clang -target bpf -c");
    }
    if file.is_little_endian() != cfg!(target_endian = "little") {
        bail!("its byte order is not that of this machine: compile it with clang -target bpf");
    }
    for section in file.sections() {
        let name = section.name().with_context(|| format!("section {} has no name", section.index()))?;
        let place = || match section.file_range() {
            Some((start, size)) => {
                let end = start.saturating_add(size);
                format!("section {name} takes bytes {start} to {end} of a file of {}", bytes.len())
            }
            None => format!("section {name} is broken"),
        };
        section.data().with_context(place)?;
    }
    for symbol in file.symbols() {
        symbol.name().with_context(|| format!("symbol {} has no name", symbol.index()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_object_is_refused() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"metrics:\n  counters: []\n", "no ELF file"),
            (b"\x7fELF", "no ELF file"),
            (&[0; 4096], "no ELF file"),
        ] {
            let error = check(bytes).expect_err("no object");
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
        let ourselves = std::env::current_exe().expect("a path");
        let error = ObjectFile::read(&ourselves).expect_err("a program of this machine");
        let text = format!("{error:#}");
        assert!(text.contains(ourselves.to_str().expect("UTF-8")), "{text}");
    }

    #[test]
    fn files_without_an_end_are_not_read_for_ever() {
        let error = ObjectFile::read(Path::new("/dev/zero")).expect_err("it has no end");
        assert!(format!("{error:#}").contains("not a regular file"), "{error:#}");
        let error = ObjectFile::read(Path::new("/no/such.bpf.o")).expect_err("no file");
        assert!(format!("{error:#}").contains("failed to read /no/such.bpf.o"), "{error:#}");
    }
}
