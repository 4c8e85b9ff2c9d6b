// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files read and written in known ways, compared with the number of pages, with
//! the bytes read from the disk (/proc/PID/io), and with /proc/vmstat.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a test's way to fail")]

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use live::exporter::Exporter;
use live::exposition::Delta;
use live::truth::{own_faults, own_io, vmstat};
use live::work::{Mapping, cold_file, drop_caches, fill};
use live::{Folder, assert_nearly, sh};
use rustix::fs::{MemfdFlags, memfd_create};

const PAGE: usize = 4096;

/// Pages: a prime number.
const PAGES: usize = 5003;

/// Look-ups, adds and dirtied pages of the machine's other processes meanwhile: the
/// exporter answers a scrape, systemd's journal writes a line.
const OTHERS: f64 = 250.0;

struct Counted {
    hits: f64,
    misses: f64,
    adds: f64,
    dirties: f64,
    /// Bytes read from the disk.
    read: f64,
    /// Pages by which the page cache grew, as the kernel counts them.
    grown: f64,
    delta: Delta,
}

/// Uses an exporter that has also run during the tests before.
fn measure(work: impl FnOnce()) -> Counted {
    measure_with(&Exporter::shared("cachestat", &[]), work)
}

fn measure_with(exporter: &Exporter, work: impl FnOnce()) -> Counted {
    let in_cache = vmstat(&["nr_file_pages"]);
    let before = exporter.scrape();
    let read = own_io("read_bytes");
    work();
    let read = own_io("read_bytes") - read;
    // One more look-up: with tracepoints only, a look-up is counted when the next one starts.
    File::open("/proc/self/exe").unwrap().read_exact_at(&mut [0], 0).unwrap();
    let delta = Delta(before, exporter.scrape());
    let grown = vmstat(&["nr_file_pages"]) - in_cache;
    delta.assert_whole();
    let file = |name: &str| delta.of(name, &[("content", "file")]);
    let counted = Counted {
        hits: delta.of("ebpf_page_cache_hits_total", &[]),
        misses: delta.of("ebpf_page_cache_misses_total", &[]),
        adds: file("ebpf_page_cache_adds_total"),
        dirties: file("ebpf_page_cache_dirties_total"),
        read,
        grown,
        delta,
    };
    println!(
        "{} hits, {} misses, {} adds, {} dirties, {} pages from the disk, the cache grew by {grown}",
        counted.hits,
        counted.misses,
        counted.adds,
        counted.dirties,
        counted.read / PAGE as f64
    );
    counted
}

/// The added pages are those that the test caused, plus any other growth of the page cache: other
/// processes add hundreds of pages at once without reading from the disk.
#[track_caller]
fn nearly_added(what: &str, counted: &Counted, exact: usize) {
    let exact = exact as f64;
    assert_nearly(what, counted.adds, exact, OTHERS + (counted.grown - exact).max(0.0));
}

/// The number that the test caused, plus at most what other processes may do meanwhile.
#[track_caller]
fn nearly(what: &str, ours: f64, exact: usize) {
    assert_nearly(what, ours, exact as f64, OTHERS);
}

/// Reads a file's first `pages` pages in pieces of `bytes`.
fn read(path: &Path, pages: usize, bytes: usize) {
    let file = File::open(path).unwrap();
    let mut buffer = vec![0; bytes];
    for n in 0..pages * PAGE / bytes {
        file.read_exact_at(&mut buffer, (n * bytes) as u64).unwrap();
    }
}

#[live::test]
fn a_cold_file_misses_and_a_warm_one_hits() {
    let file = cold_file(PAGES);
    // The hit ratio is that of the last minute, so each part has its own exporter.
    let alone = || measure_with(&Exporter::start("cachestat", &[]), || read(&file, PAGES, PAGE));
    let cold = alone();
    nearly("cold misses", cold.misses, PAGES);
    nearly("cold hits", cold.hits, 0);
    // Readahead stops at the end of the file, so all added pages are read.
    nearly_added("cold adds", &cold, PAGES);
    // Includes a page or two of this program, which are not cached either.
    nearly("pages from the disk", cold.read / PAGE as f64, PAGES);
    let warm = alone();
    nearly("warm hits", warm.hits, PAGES);
    nearly("warm misses", warm.misses, 0);
    nearly("pages from the disk, warm", warm.read / PAGE as f64, 0);
    let ratio = |counted: &Counted| counted.delta.1.get("ebpf_page_cache_hit_ratio", &[]).unwrap();
    assert!(ratio(&cold) < 0.1, "{}", ratio(&cold));
    assert!(ratio(&warm) > 0.95, "{}", ratio(&warm));
}

#[live::test]
fn what_a_process_reads_last_is_a_look_up() {
    const PROCESSES: usize = 50;
    let path = cold_file(PAGES);
    let read = format!("dd if={} of=/dev/null bs=32M status=none", path.display());
    let hits = |line: &str| measure(|| drop(sh(line))).hits;
    sh(&read);
    // The shell and dd also read their own files, and other processes read meanwhile.
    let one = hits(&read) - hits("dd if=/dev/null of=/dev/null bs=32M status=none");
    assert!((one - PAGES as f64).abs() <= 250.0, "{one} hits of one process that reads {PAGES} pages");
    let all = hits(&format!("for n in $(seq {PROCESSES}); do {read}; done"));
    let exact = (PROCESSES * PAGES) as f64;
    assert!((exact..exact * 1.1).contains(&all), "{all} hits of {exact}");
}

#[live::test]
fn large_and_small_reads_look_up_the_same_pages() {
    let file = cold_file(PAGES);
    let large = measure(|| read(&file, 4096, 1 << 20));
    nearly("cold misses by 1 MiB", large.misses, 4096);
    nearly("cold hits by 1 MiB", large.hits, 0);
    let large = measure(|| read(&file, 4096, 1 << 20));
    nearly("hits by 1 MiB", large.hits, 4096);
    nearly("misses by 1 MiB", large.misses, 0);
    // Eight reads look up each page eight times.
    let small = measure(|| read(&file, 1021, 512));
    nearly("hits by 512 bytes", small.hits, 8 * 1021);
    let once = measure(|| (0..1009).for_each(|_| read(&file, 1, PAGE)));
    nearly("hits of one page", once.hits, 1009);
    // From the middle of a page to the middle of the next.
    let across = measure(|| {
        let file = File::open(&file).unwrap();
        (0..503u64).for_each(|n| file.read_exact_at(&mut [0; 4096], n * 4096 + 2048).unwrap());
    });
    nearly("hits of reads across two pages", across.hits, 2 * 503);
}

#[live::test]
fn random_reads_miss_page_by_page() {
    let file = cold_file(PAGES);
    let random = measure(|| {
        let file = File::open(&file).unwrap();
        // Every seventh page, backwards: this causes no readahead.
        (0..211u64).rev().for_each(|n| file.read_exact_at(&mut [0; PAGE], n * 7 * PAGE as u64).unwrap());
    });
    nearly("misses", random.misses, 211);
    nearly("hits", random.hits, 0);
}

#[live::test]
fn readahead_that_nobody_looks_at_is_no_miss() {
    let file = cold_file(PAGES);
    let little = measure(|| read(&file, 3, PAGE));
    assert!(little.adds > 3.0, "{} pages were read ahead", little.adds);
    assert!((1.0..=3.0 + OTHERS / 10.0).contains(&little.misses), "{} misses of 3 look-ups", little.misses);
}

#[live::test]
fn readahead_is_a_miss_where_it_is_looked_up_and_nowhere_else() {
    let file = cold_file(PAGES);
    let ahead = measure(|| read(&file, 3, PAGE));
    let in_cache = ahead.adds as usize;
    assert!(in_cache > 10, "{in_cache} pages were read ahead");
    // Pages that were looked up before are hits, even with unused readahead beside them.
    let again = measure(|| (0..503).for_each(|_| read(&file, 3, PAGE)));
    nearly("hits of the first pages", again.hits, 3 * 503);
    nearly("misses of the first pages", again.misses, 0);
    // Unused readahead ends with its file, although the next file may reuse its inode's memory.
    for n in 0..5 {
        std::fs::remove_file(&file).unwrap();
        fill(&file, PAGES);
        let new = measure(|| read(&file, PAGES, PAGE));
        nearly(&format!("hits in new file {n}"), new.hits, PAGES);
        nearly(&format!("misses in new file {n}"), new.misses, 0);
        drop_caches();
        read(&file, 3, PAGE);
    }
}

#[live::test]
fn written_pages_are_dirtied_and_miss_nothing() {
    let folder = Folder::on_disk();
    let path = &folder.path("written");
    let new = measure(|| fill(path.as_ref(), PAGES));
    nearly("dirties", new.dirties, PAGES);
    nearly_added("adds", &new, PAGES);
    nearly("misses", new.misses, 0);
    let again = measure(|| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        // Clean all pages first.
        file.sync_all().unwrap();
        (0..1009u64).for_each(|n| file.write_all_at(&[1; PAGE], n * PAGE as u64).unwrap());
    });
    nearly("dirties of an overwrite", again.dirties, 1009);
    nearly_added("adds of an overwrite", &again, 0);
    nearly("misses of an overwrite", again.misses, 0);
    // Written pages are cached.
    let back = measure(|| read(path.as_ref(), PAGES, PAGE));
    nearly("hits", back.hits, PAGES);
    nearly("misses", back.misses, 0);
}

#[live::test]
fn reads_beside_writes_of_new_pages_keep_their_misses() {
    let file = cold_file(PAGES);
    let folder = Folder::on_disk();
    let path = folder.path("beside");
    let both = measure(|| {
        let source = File::open(&file).unwrap();
        let mut target = File::create(&path).unwrap();
        let mut page = [0; PAGE];
        for n in 0..PAGES as u64 {
            source.read_exact_at(&mut page, n * PAGE as u64).unwrap();
            target.write_all(&page).unwrap();
        }
    });
    nearly("misses", both.misses, PAGES);
    nearly("hits", both.hits, 0);
    nearly("dirties", both.dirties, PAGES);
    nearly_added("adds", &both, 2 * PAGES);
}

#[live::test]
fn faults_on_mapped_files_are_look_ups() {
    let file = cold_file(2003);
    let faults = Cell::new((0, 0));
    let of = |work: &dyn Fn()| {
        measure(|| {
            let before = own_faults();
            work();
            let after = own_faults();
            faults.set((after.0 - before.0, after.1 - before.1));
        })
    };
    let cold = of(&|| Mapping::of_file(&file, 2003).without_readahead().read_all());
    nearly("cold misses", cold.misses, 2003);
    nearly("cold hits", cold.hits, 0);
    // A fault also maps the pages around it, usually 16, so there are fewer look-ups than pages.
    let warm = of(&|| Mapping::of_file(&file, 2003).read_all());
    let (minor, major) = faults.get();
    assert!(major == 0 && (2003 / 64..400).contains(&minor), "{minor} minor, {major} major faults");
    assert!(
        warm.hits >= minor as f64 - 20.0 && warm.hits <= minor as f64 + OTHERS,
        "{} hits, {minor} faults",
        warm.hits
    );
    nearly("warm misses", warm.misses, 0);
    drop_caches();
    let ahead = of(&|| Mapping::of_file(&file, 2003).read_all());
    assert!(
        ahead.misses >= 10.0 && ahead.misses <= ahead.read / PAGE as f64 + OTHERS,
        "{} misses",
        ahead.misses
    );
    // Pages that were mapped around a fault count as looked up: they are hits.
    let read = of(&|| read(&file, 2003, PAGE));
    nearly("hits of what was mapped", read.hits, 2003);
    nearly("misses of what was mapped", read.misses, 0);
}

#[live::test]
fn faults_on_tmpfs_are_no_look_ups() {
    let folder = Folder::new();
    sh(&format!("mount -t tmpfs none {}", folder.path("")));
    let path = folder.path("mapped");
    fill(path.as_ref(), 2003);
    let faults = Cell::new(0);
    let mapped = measure(|| {
        let before = own_faults();
        // Several times, because other processes look up pages meanwhile.
        (0..20).for_each(|_| Mapping::of_file(path.as_ref(), 2003).read_all());
        faults.set(own_faults().0 - before.0);
    });
    sh(&format!("umount {}", folder.path("")));
    assert!(faults.get() > 2003, "{} faults", faults.get());
    nearly("hits", mapped.hits, 0);
    nearly("misses", mapped.misses, 0);
}

#[live::test]
fn splice_looks_up_as_read_does() {
    let file = cold_file(PAGES);
    let copy = || {
        let mut from = File::open(&file).unwrap();
        let mut to = OpenOptions::new().write(true).open("/dev/null").unwrap();
        let mut left = PAGES * PAGE;
        while left > 0 {
            left -= live::work::send_file(&mut from, &mut to, left);
        }
    };
    let cold = measure(copy);
    nearly("cold misses", cold.misses, PAGES);
    let warm = measure(copy);
    nearly("warm hits", warm.hits, PAGES);
    nearly("warm misses", warm.misses, 0);
}

#[live::test]
fn metadata_is_told_apart() {
    let counted = measure(|| {
        let many = Folder::on_disk();
        sh(&format!("for n in $(seq 300); do : > {}$n; done; sync", many.path("file")));
    });
    let metadata = counted.delta.of("ebpf_page_cache_dirties_total", &[("content", "metadata")]);
    assert!(metadata >= 10.0, "{metadata} dirty pages of metadata");
}

/// `vm.nr_hugepages`, set until this is dropped.
struct HugePages(String);

impl HugePages {
    const SETTING: &str = "/proc/sys/vm/nr_hugepages";

    fn set(number: usize) -> Self {
        let before = std::fs::read_to_string(Self::SETTING).unwrap();
        std::fs::write(Self::SETTING, number.to_string()).unwrap();
        Self(before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(Self::SETTING, &self.0);
    }
}

#[live::test(file("/proc/sys/vm/nr_hugepages"))]
fn huge_pages_are_no_cache() {
    const HUGE: usize = 8;
    /// Bytes of one; that of x86-64, which arm64 with pages of 4 KiB has, too.
    const HUGE_PAGE: usize = 2 << 20;
    let _pages = HugePages::set(HUGE);
    let counted = measure(|| {
        let flags = MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC;
        let file = File::from(memfd_create("huge", flags).unwrap());
        file.set_len((HUGE * HUGE_PAGE) as u64).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Mapping::of_file(Path::new(&path), HUGE * HUGE_PAGE / PAGE).touch();
    });
    // The kernel does not count pages of hugetlbfs in nr_file_pages either.
    nearly_added("pages added", &counted, 0);
}

live::main!();
