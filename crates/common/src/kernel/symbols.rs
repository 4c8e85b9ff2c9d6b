// SPDX-License-Identifier: MIT OR Apache-2.0
//! Symbols of kernel functions, and the copies that compilers make of them.
//!
//! Compilers emit several symbols for a function and mark each with a suffix. A copy for callers
//! with known (`.constprop.0`) or unused (`.isra.0`) arguments has other arguments than the
//! function, or the same in other registers. Its result is the same. A program attached only to the
//! function does not see calls of a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC};

use crate::kernel::hook::Hook;

/// All symbols, including those of modules.
pub const KALLSYMS: &str = "/proc/kallsyms";

/// Where our units bind [`KALLSYMS`]: `ProtectKernelTunables=` hides the file at its own place.
const IN_UNITS: &str = "/tmp/kallsyms";

/// A line of /proc/kallsyms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'l> {
    /// Address, in hexadecimal digits.
    digits: &'l [u8],
    /// Kind, as `nm` shows it: `t` and `T` are functions.
    pub kind: u8,
    /// Name.
    pub name: &'l [u8],
    /// Name of the module.
    pub module: Option<&'l [u8]>,
}

impl<'l> Symbol<'l> {
    fn of(line: &'l [u8]) -> Option<Self> {
        let (digits, line) = line.split_at(line.iter().position(|byte| *byte == b' ')?);
        let [b' ', kind, b' ', line @ ..] = line else { return None };
        let end = line.iter().position(|byte| *byte <= b' ').unwrap_or(line.len());
        let (name, line) = line.split_at(end);
        let module = line.strip_prefix(b"\t[").and_then(|line| line.trim_ascii_end().strip_suffix(b"]"));
        Some(Self { digits, kind: *kind, name, module })
    }

    /// The address; 0 if the kernel hides it from this process. Not every reader needs it, and to parse it
    /// takes longer than the rest of the line. None if it is not a number.
    pub fn address(&self) -> Option<u64> {
        u64::from_str_radix(std::str::from_utf8(self.digits).ok()?, 16).ok()
    }
}

/// Calls `found` with each symbol in `lines` of /proc/kallsyms. Every exporter with a program at a function
/// reads its 200,000 lines when it starts, so they are not copied.
///
/// # Errors
/// When `lines` cannot be read.
pub fn each(mut lines: impl BufRead, mut found: impl FnMut(Symbol)) -> io::Result<()> {
    // A line whose end was not read yet. The kernel hands out whole lines.
    let mut begun = Vec::new();
    loop {
        let buffer = match lines.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        if buffer.is_empty() {
            Symbol::of(&begun).map(&mut found);
            return Ok(());
        }
        let mut rest = buffer;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            if begun.is_empty() {
                Symbol::of(line).map(&mut found);
            } else {
                begun.extend_from_slice(line);
                Symbol::of(&begun).map(&mut found);
                begun.clear();
            }
            rest = after;
        }
        begun.extend_from_slice(rest);
        let length = buffer.len();
        lines.consume(length);
    }
}

/// Symbols of some functions, as /proc/kallsyms has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols(BTreeMap<String, Vec<String>>);

/// Relation of a symbol to the function whose name it starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The function.
    Itself,
    /// A copy with other arguments, for some or all of its calls.
    Copy,
    /// A part of the function that is jumped to or called from it.
    Part,
    Unknown,
}

/// The relation, from the words that follow a function's name after dots.
fn kind(symbol: &str) -> Kind {
    if !symbol.contains('.') {
        return Kind::Itself;
    }
    // Numbers distinguish several symbols of one kind.
    let words = symbol.split('.').skip(1).filter(|word| !word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let word = |word: &str| match word {
        // LTO gives static functions names that are unique in the linked file.
        "llvm" | "lto_priv" | "__uniq" => Kind::Itself,
        "isra" | "constprop" => Kind::Copy,
        // `localalias` is another name of the function itself.
        "cold" | "part" | "localalias" => Kind::Part,
        _ => Kind::Unknown,
    };
    words.map(word).max().unwrap_or(Kind::Unknown)
}

/// Names that compilers give to a function and its copies, numbered from 0. If symbols are hidden,
/// try to attach to these.
pub fn likely_symbols(function: &str) -> impl Iterator<Item = String> {
    let suffixes = ["", ".isra.0", ".constprop.0", ".constprop.0.isra.0", ".constprop.1", ".constprop.2"];
    suffixes.into_iter().map(move |suffix| format!("{function}{suffix}"))
}

/// Whether the kernel has a symbol of that name; false too where symbols are hidden.
pub fn has(name: &str) -> bool {
    let mut found = false;
    if let Some(lines) = open() {
        // What cannot be read has no symbols.
        let _ = each(lines, |symbol| found |= symbol.name == name.as_bytes());
    }
    found
}

/// The symbols, at the first place that shows any. None if they are hidden from this process.
fn open() -> Option<BufReader<File>> {
    [KALLSYMS, IN_UNITS].into_iter().find_map(|path| open_at(Path::new(path)))
}

/// None if the file is not of procfs, as one that a user made in /tmp, or is empty, as what systemd puts in
/// the place of a hidden file.
fn open_at(path: &Path) -> Option<BufReader<File>> {
    let file =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let kind = rustix::fs::fstatfs(&file).ok()?.f_type;
    let mut lines = BufReader::with_capacity(64 << 10, File::from(file));
    (kind == PROC_SUPER_MAGIC && !lines.fill_buf().ok()?.is_empty()).then_some(lines)
}

impl Symbols {
    /// Reads the symbols of `functions`; None if they are hidden from this process, as in other units
    /// than ours with `ProtectKernelTunables=`.
    pub fn read(functions: &BTreeSet<&str>) -> Option<Self> {
        Self::parse(open()?, functions).ok()
    }

    /// The symbols of one function that attaching found: see [`likely_symbols`].
    pub fn of_one(function: &str, symbols: Vec<String>) -> Self {
        Self([(function.to_owned(), symbols)].into())
    }

    /// Picks the symbols of `functions` from lines such as `ffffffffc0000000 t arc_access.isra.0`,
    /// optionally followed by a module.
    pub(crate) fn parse(lines: impl BufRead, functions: &BTreeSet<&str>) -> io::Result<Self> {
        let mut symbols = BTreeMap::<String, Vec<String>>::new();
        // Of nearly all symbols the first bytes tell that they are none of these.
        let mut begins = [false; 256];
        functions
            .iter()
            .filter_map(|name| name.bytes().next())
            .for_each(|byte| begins[usize::from(byte)] = true);
        each(lines, |symbol| {
            let text = matches!(symbol.kind, b't' | b'T' | b'w' | b'W');
            let begins = symbol.name.first().is_some_and(|byte| begins[usize::from(*byte)]);
            if text
                && begins
                && let Ok(name) = std::str::from_utf8(symbol.name)
                && let Some(function) = name.split('.').next().filter(|name| functions.contains(name))
            {
                symbols.entry(function.to_owned()).or_default().push(name.to_owned());
            }
        })?;
        Ok(Self(symbols))
    }

    fn of(&self, function: &str, wanted: Kind) -> Vec<&str> {
        let symbols = self.0.get(function).into_iter().flatten().map(String::as_str);
        symbols.filter(|symbol| kind(symbol) == wanted).collect()
    }

    /// The symbols at which a program at `hook` sees all calls of its function.
    ///
    /// # Errors
    /// When the program would miss calls or read wrong arguments. The error says why.
    pub fn places<'s>(&'s self, hook: &'s Hook) -> Result<Vec<&'s str>, String> {
        match hook {
            Hook::Kprobe { function, reads_arguments } => self.breakpoints(function, *reads_arguments),
            Hook::Kretprobe(function) => self.breakpoints(function, false),
            Hook::Fentry(function) | Hook::Fexit(function) => {
                self.missed_by_fentry(function).map_or(Ok(vec![function]), Err)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The symbols to which kprobes must attach to see all calls of `function`.
    ///
    /// # Errors
    /// When a program would miss calls or read wrong arguments, or there is no such function. The
    /// error says why.
    fn breakpoints(&self, function: &str, reads_arguments: bool) -> Result<Vec<&str>, String> {
        let [itself, copies, unknown] =
            [Kind::Itself, Kind::Copy, Kind::Unknown].map(|kind| self.of(function, kind));
        if let Some(symbol) = unknown.first() {
            return Err(format!("symbol {symbol} is an unknown variant of function {function}"));
        }
        if reads_arguments && !copies.is_empty() {
            return Err(self.misses(&itself, &copies, function, "which have other arguments"));
        }
        let all: Vec<&str> = itself.iter().chain(&copies).copied().collect();
        // Of several functions with one name, the kernel would choose one or refuse.
        let twice = |symbol: &&&str| all.iter().filter(|other| other == symbol).count() > 1;
        match all.iter().find(twice) {
            Some(symbol) => Err(format!("several functions are named {symbol}")),
            None if itself.len() > 1 => Err(format!("several functions are named {function}")),
            None if all.is_empty() => Err(format!("no function {function} in the kernel or a module")),
            None => Ok(all),
        }
    }

    /// Why fentry and fexit programs miss calls of the function: they attach only to the function
    /// itself. None if they see all calls.
    fn missed_by_fentry(&self, function: &str) -> Option<String> {
        let [itself, copies] = [Kind::Itself, Kind::Copy].map(|kind| self.of(function, kind));
        (!copies.is_empty()).then(|| self.misses(&itself, &copies, function, "which have no types"))
    }

    fn misses(&self, itself: &[&str], copies: &[&str], function: &str, which: &str) -> String {
        let calls = if itself.is_empty() { "all" } else { "some" };
        format!(
            "{calls} calls of function {function} go to compiler-made copies of it, {which}: {}",
            copies.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FUNCTIONS: [&str; 8] = ["whole", "split", "only", "both", "lto", "twice", "strange", "absent"];

    const TEXT: &str = "\
0000000000000000 A whole
ffffffff81000000 T whole
ffffffff81000010 t whole_of_another_name
ffffffff81000020 t split
ffffffff81000030 t split.cold
ffffffff81000040 t split.part.0
ffffffff81000050 t split.part.0.isra.0
ffffffff81000060 t split.isra.0.cold
ffffffffc0000000 t only.constprop.0.isra.0\t[zfs]
ffffffff81000070 t both
ffffffff81000080 t both.constprop.0
ffffffff81000090 t both.constprop.1
ffffffff810000a0 t lto.llvm.8451123960071346741
ffffffff810000b0 t twice
ffffffffc0000010 t twice\t[zfs]
ffffffff810000c0 t strange
ffffffff810000d0 t strange.slowpath
ffffffff810000d8 t strange.0
ffffffff810000e0 d absent
";

    fn symbols() -> Symbols {
        Symbols::parse(TEXT.as_bytes(), &FUNCTIONS.into()).unwrap()
    }

    /// Without CAP_SYSLOG, as in units, the kernel shows zeros for addresses
    /// (kernel/kallsyms.c: s_show).
    #[test]
    fn names_are_all_that_is_needed() {
        let of = |text: String| Symbols::parse(text.as_bytes(), &FUNCTIONS.into()).unwrap();
        let zeros = TEXT.lines().map(|line| format!("0000000000000000{}\n", &line[16..]));
        assert_eq!(of(zeros.collect()), of(TEXT.to_owned()));
    }

    #[test]
    fn symbols_are_read_from_procfs_only_and_not_through_a_link() {
        assert!(open_at(Path::new("/proc/self/status")).is_some(), "a file of procfs with text");
        assert!(open_at(Path::new("/proc/self/environ.none")).is_none());
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, TEXT).unwrap();
        assert!(open_at(&file).is_none(), "anybody can write such a file");
        std::os::unix::fs::symlink("/proc/self/status", &link).unwrap();
        assert!(open_at(&link).is_none(), "anybody can make such a link");
    }

    #[test]
    fn a_line_is_a_symbol_if_it_has_a_kind_and_a_name() {
        let text = "ffffffffc0000000 t only\t[zfs]\n\nx t y\n0 tt z\n0\n0 D w";
        let zfs = (Some(0xffff_ffff_c000_0000), b't', b"only".to_vec(), Some(b"zfs".to_vec()));
        let expected = [zfs, (None, b't', b"y".to_vec(), None), (Some(0), b'D', b"w".to_vec(), None)];
        // A line may be in several pieces, and a piece may end where a line does.
        for size in [1, 2, 7, 29, 30, 31, 1000] {
            let mut all = Vec::new();
            each(BufReader::with_capacity(size, text.as_bytes()), |symbol| {
                let module = symbol.module.map(<[u8]>::to_owned);
                all.push((symbol.address(), symbol.kind, symbol.name.to_owned(), module));
            })
            .unwrap();
            assert_eq!(all, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_function_with_one_symbol_is_seen_there() {
        for reads_arguments in [true, false] {
            let places = |function| symbols().breakpoints(function, reads_arguments).map(|all| all.join(" "));
            assert_eq!(places("whole").as_deref(), Ok("whole"));
            assert_eq!(places("split").as_deref(), Ok("split"));
            assert_eq!(places("lto").as_deref(), Ok("lto.llvm.8451123960071346741"));
        }
        for function in ["whole", "split", "lto"] {
            assert_eq!(symbols().missed_by_fentry(function), None);
        }
    }

    #[test]
    fn a_program_that_reads_arguments_is_not_attached_to_copies() {
        let why = |function| symbols().breakpoints(function, true).unwrap_err();
        let only = "all calls of function only go to compiler-made copies of it, which have other arguments: only.constprop.0.isra.0";
        assert_eq!(why("only"), only);
        let both = "some calls of function both go to compiler-made copies of it, which have other arguments: both.constprop.0, both.constprop.1";
        assert_eq!(why("both"), both);
    }

    #[test]
    fn a_program_that_reads_no_arguments_is_attached_to_all_copies() {
        assert_eq!(symbols().breakpoints("only", false), Ok(vec!["only.constprop.0.isra.0"]));
        assert_eq!(
            symbols().breakpoints("both", false),
            Ok(vec!["both", "both.constprop.0", "both.constprop.1"])
        );
    }

    #[test]
    fn fentry_is_not_used_where_it_would_see_some_calls_only() {
        let why = "some calls of function both go to compiler-made copies of it, which have no types: both.constprop.0, both.constprop.1";
        assert_eq!(symbols().missed_by_fentry("both").as_deref(), Some(why));
    }

    #[test]
    fn what_is_not_certain_is_refused() {
        let why = |function| symbols().breakpoints(function, false).unwrap_err();
        assert_eq!(why("twice"), "several functions are named twice");
        assert_eq!(why("strange"), "symbol strange.slowpath is an unknown variant of function strange");
        assert_eq!(why("absent"), "no function absent in the kernel or a module");
    }
}
