// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads maps with few system calls and allocations.
//!
//! libbpf-rs returns a vector for each CPU of each element. This module reads a whole batch into
//! one reused buffer, and adds up the CPUs' values in place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::{MapCore, MapType, Object};
use rustix::io::Errno;

use crate::kernel::facts::possible_cpus;
use crate::read::layout::Layouts;
use crate::words::counted;

/// Takes the key of an entry, and the value of each CPU.
pub type EachCpu<'f> = dyn FnMut(&[u8], &mut dyn Iterator<Item = &[u8]>) + 'f;

/// Takes the key of an entry, the values of its batch, and the index of its value in them.
type InBatch<'f> = dyn FnMut(&[u8], &mut [u64], usize) + 'f;

/// How often this process read from a map: a batch, or an entry.
static READS: AtomicU64 = AtomicU64::new(0);

/// How often this process read from a map. While this grows, a scrape that takes long does not hang.
pub fn reads() -> u64 {
    READS.load(Ordering::Relaxed)
}

/// A source of map contents: the kernel, or a test's fixture.
pub trait MapSource {
    /// Calls `f` with the key and the value of every entry; per-CPU values are added up.
    ///
    /// # Errors
    /// When there is no such map, or the kernel refuses to read it.
    fn for_each(&self, map: &str, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()>;

    /// Like [`MapSource::for_each`], but per-CPU values are not added up: `f` gets the value of each
    /// possible CPU, one after another.
    ///
    /// # Errors
    /// As there.
    fn for_each_cpu(&self, map: &str, f: &mut EachCpu<'_>) -> Result<()> {
        self.for_each(map, &mut |key, value| f(key, &mut std::iter::once(value)))
    }

    /// Used and maximum entries of the maps that can be full, sorted by name.
    ///
    /// # Errors
    /// When the kernel refuses to read a map.
    fn fill(&self) -> Result<Vec<Fill>>;
}

/// Interval between retries while the kernel refills its pool of per-CPU memory. It does not report
/// the end of the refill.
const REFILL: Duration = Duration::from_millis(20);

/// Maximum number of retries.
const REFILLS: u32 = 100;

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: String,
    /// Entries in use.
    pub entries: u64,
    /// Maximum number of entries.
    pub capacity: u64,
}

/// Maximum number of entries that are counted key by key: see `LiveMap::count`. A map with more is
/// read in batches. A batch of such a map is full after only a part of the buckets.
const FEW: u32 = 2048;

/// Approximate size of a batch's buffers; larger if a hash bucket needs it.
const BATCH_BYTES: usize = 64 << 10;

/// The maps of a loaded object, with descriptors of its own.
#[derive(Debug, Default)]
pub struct LiveMaps {
    maps: BTreeMap<String, LiveMap>,
}

/// One map in the kernel.
#[derive(Debug)]
pub struct LiveMap {
    fd: OwnedFd,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    capacity: u32,
    /// Possible CPUs for a per-CPU map, else 1.
    copies: usize,
}

impl LiveMaps {
    /// The maps of `object` that `layouts` knows, except per-CPU maps whose values are not made of
    /// 64-bit numbers and so cannot be added up.
    ///
    /// # Errors
    /// When a descriptor cannot be copied.
    pub fn of(object: &Object, layouts: &Layouts) -> Result<Self> {
        let mut maps = BTreeMap::new();
        for map in object.maps() {
            let name = map.name().to_string_lossy().into_owned();
            let Some(layout) = layouts.get(&name) else { continue };
            if map.map_type().is_percpu() && !layout.value.is_words() {
                continue;
            }
            let live = LiveMap::of(&map)?;
            maps.insert(name, live);
        }
        Ok(Self { maps })
    }

    /// These maps of `object`, whatever their values are made of.
    ///
    /// # Errors
    /// When a descriptor cannot be copied.
    pub fn raw(object: &Object, names: &BTreeSet<&str>) -> Result<Self> {
        let named = object.maps().filter_map(|map| {
            let name = map.name().to_str()?.to_owned();
            names.contains(name.as_str()).then(|| Ok((name, LiveMap::of(&map)?)))
        });
        Ok(Self { maps: named.collect::<Result<_>>()? })
    }

    /// A single map without an object, for measurements.
    ///
    /// # Errors
    /// When its descriptor cannot be copied.
    pub fn single(name: &str, map: &impl MapCore) -> Result<Self> {
        Ok(Self { maps: BTreeMap::from([(name.to_owned(), LiveMap::of(map)?)]) })
    }

    /// The map of that name.
    ///
    /// # Errors
    /// When the object has none.
    pub fn get(&self, name: &str) -> Result<&LiveMap> {
        self.maps.get(name).with_context(|| {
            format!("the object has no map `{name}`, or one of per-CPU values that are not 64-bit numbers")
        })
    }

    /// Like [`MapSource::for_each`], but without batches, as on kernels that have none.
    ///
    /// # Errors
    /// As there.
    pub fn for_each_unbatched(&self, map: &str, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        let live = self.get(map)?;
        live.visit_keys(&mut |key, values, index| f(key, live.sum(values, index)))
    }

    /// Inserts an all-zero value under `key`, unless there is a value already. Returns whether
    /// there was room.
    ///
    /// # Errors
    /// When there is no such map, the key has the wrong size, or the kernel refuses.
    pub fn insert_zero(&self, map: &str, key: &[u8]) -> Result<bool> {
        let live = self.get(map)?;
        if key.len() != live.key_size {
            bail!("map `{map}` has keys of {}, not {}", counted(live.key_size, "byte"), key.len());
        }
        let value = vec![0u8; live.stride() * live.copies];
        let insert = || {
            // SAFETY: key and value are as long as the kernel reads for this map.
            errno_of(unsafe {
                libbpf_sys::bpf_map_update_elem(
                    live.fd.as_raw_fd(),
                    key.as_ptr().cast(),
                    value.as_ptr().cast(),
                    libbpf_sys::BPF_NOEXIST.into(),
                )
            })
        };
        let mut result = insert();
        for _ in 0..REFILLS {
            if result != Some(Errno::NOMEM) {
                break;
            }
            // The kernel takes memory for per-CPU values from a pool. A worker refills the pool when
            // it runs short (mm/percpu.c: pcpu_balance_workfn). The kernel neither waits for the
            // worker nor reports when it is done.
            thread::sleep(REFILL); // No event reports the refill.
            result = insert();
        }
        match result {
            None | Some(Errno::EXIST) => Ok(true),
            Some(Errno::TOOBIG) => Ok(false),
            Some(errno) => Err(errno).with_context(|| format!("failed to add to map `{map}`")),
        }
    }

    /// Removes the entry under `key`. Returns whether there was one.
    ///
    /// # Errors
    /// When there is no such map, the key has the wrong size, or the kernel refuses.
    pub fn delete(&self, map: &str, key: &[u8]) -> Result<bool> {
        let live = self.with_keys_like(map, key)?;
        // SAFETY: the key is as long as the kernel reads for this map.
        let result = unsafe { libbpf_sys::bpf_map_delete_elem(live.fd.as_raw_fd(), key.as_ptr().cast()) };
        match errno_of(result) {
            None => Ok(true),
            Some(Errno::NOENT) => Ok(false),
            Some(errno) => Err(errno).with_context(|| format!("failed to delete from map `{map}`")),
        }
    }

    /// The value under `key`, if there is one; of per-CPU values the first.
    ///
    /// # Errors
    /// When there is no such map, the key has the wrong size, or the kernel refuses.
    pub fn lookup(&self, map: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let live = self.with_keys_like(map, key)?;
        let mut value = vec![0u8; live.stride() * live.copies];
        // SAFETY: key and value are as long as the kernel reads and writes for this map.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_elem(
                live.fd.as_raw_fd(),
                key.as_ptr().cast(),
                value.as_mut_ptr().cast(),
            )
        };
        match errno_of(result) {
            None => {
                value.truncate(live.value_size);
                Ok(Some(value))
            }
            Some(Errno::NOENT) => Ok(None),
            Some(errno) => Err(errno).with_context(|| format!("failed to read map `{map}`")),
        }
    }

    /// A map whose keys have the size of this one.
    fn with_keys_like(&self, map: &str, key: &[u8]) -> Result<&LiveMap> {
        let live = self.get(map)?;
        if key.len() != live.key_size {
            bail!("map `{map}` has keys of {}, not {}", counted(live.key_size, "byte"), key.len());
        }
        Ok(live)
    }

    /// Whether all maps can be read with the privileges of the calling thread.
    pub fn readable(&self) -> bool {
        self.maps.values().all(|map| map.next_key(None).is_ok())
    }
}

impl MapSource for LiveMaps {
    fn for_each(&self, map: &str, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        self.get(map)?.for_each(f).with_context(|| format!("failed to read map `{map}`"))
    }

    fn for_each_cpu(&self, map: &str, f: &mut EachCpu<'_>) -> Result<()> {
        let live = self.get(map)?;
        let each = |key: &[u8], values: &mut [u64], index: usize| {
            f(key, &mut live.copies(values, index));
        };
        live.visit(each).with_context(|| format!("failed to read map `{map}`"))
    }

    fn fill(&self) -> Result<Vec<Fill>> {
        let mut fills = Vec::new();
        for (name, map) in self.maps.iter().filter(|(_, map)| map.kind.is_hash_map()) {
            let entries = map.count().with_context(|| format!("failed to read map `{name}`"))?;
            fills.push(Fill { map: name.clone(), entries, capacity: map.capacity.into() });
        }
        Ok(fills)
    }
}

impl LiveMap {
    fn of(map: &impl MapCore) -> Result<Self> {
        let kind = map.map_type();
        Ok(Self {
            fd: map.as_fd().try_clone_to_owned().context("failed to copy a map descriptor")?,
            kind,
            key_size: map.key_size() as usize,
            value_size: map.value_size() as usize,
            capacity: map.max_entries(),
            copies: if kind.is_percpu() { possible_cpus()? as usize } else { 1 },
        })
    }

    /// Bytes of one CPU's value as the kernel copies it.
    fn stride(&self) -> usize {
        if self.kind.is_percpu() { self.value_size.next_multiple_of(8) } else { self.value_size }
    }

    fn for_each(&self, f: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        self.visit(|key, values, index| f(key, self.sum(values, index)))
    }

    /// Calls `f` with the key of every entry, with the values of a batch, and with the index of the
    /// entry's value in it.
    fn visit(&self, mut f: impl FnMut(&[u8], &mut [u64], usize)) -> Result<()> {
        // A batch of a trie goes on from a key. Where that was deleted meanwhile, it begins again, and
        // returns entries twice (kernel/bpf/lpm_trie.c: `trie_get_next_key`).
        if self.kind == MapType::LpmTrie {
            return self.visit_keys(&mut f);
        }
        match self.visit_batched(&mut f) {
            // Per-CPU arrays support batches since 5.13. Some map types do not support them at all.
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOTSUP_524) => self.visit_keys(&mut f),
            other => other.map_err(Into::into),
        }
    }

    /// A hash is read bucket by bucket, each under its lock: concurrent inserts and deletes neither
    /// hide entries nor repeat them.
    fn visit_batched(&self, f: &mut InBatch<'_>) -> Result<(), Errno> {
        let value_bytes = self.stride() * self.copies;
        let mut room = (BATCH_BYTES / (self.key_size + value_bytes)).clamp(1, self.capacity.max(1) as usize);
        let mut keys = vec![0u8; self.key_size * room];
        let mut values = vec![0u64; (value_bytes * room).div_ceil(8)];
        // The kernel stores its position as 4 bytes for a hash, as a key for an array.
        let mut place = vec![0u8; self.key_size.max(8)];
        let mut next = place.clone();
        let mut first = true;
        loop {
            READS.fetch_add(1, Ordering::Relaxed);
            let mut count = room as u32;
            // SAFETY: the buffers have room for `count` keys and values of this map and
            // for the place, and outlive the call.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_batch(
                    self.fd.as_raw_fd(),
                    if first { ptr::null_mut() } else { place.as_mut_ptr().cast::<c_void>() },
                    next.as_mut_ptr().cast(),
                    keys.as_mut_ptr().cast(),
                    values.as_mut_ptr().cast(),
                    &raw mut count,
                    ptr::null(),
                )
            };
            let done = match errno_of(result) {
                None => false,
                Some(Errno::NOENT) => true,
                Some(Errno::INTR) => continue,
                // A bucket has more entries than fit. None of them was copied: retry with more room.
                Some(Errno::NOSPC) => {
                    room *= 2;
                    keys.resize(self.key_size * room, 0);
                    values.resize((value_bytes * room).div_ceil(8), 0);
                    continue;
                }
                Some(errno) => return Err(errno),
            };
            for (index, key) in keys.chunks_exact(self.key_size).take(count as usize).enumerate() {
                f(key, &mut values, index);
            }
            if done {
                return Ok(());
            }
            std::mem::swap(&mut place, &mut next);
            first = false;
        }
    }

    /// Number of entries in use.
    ///
    /// The keys of a few entries are read one at a time. A batch of a large map with few entries is one
    /// walk over all of its buckets. During that walk the kernel runs no program of a kprobe on that CPU
    /// (kernel/bpf/syscall.c: `bpf_disable_instrumentation`). Where tasks are preempted in the kernel,
    /// the walk may last until the task runs again.
    fn count(&self) -> Result<u64> {
        if let (keys, true) = self.keys(FEW)? {
            return Ok(keys.len() as u64);
        }
        let mut entries = 0;
        self.for_each(&mut |_, _| entries += 1)?;
        Ok(entries)
    }

    /// At most `most` keys without duplicates, and whether these are all. If the current key is
    /// deleted meanwhile, the kernel starts over from the first key.
    fn keys(&self, most: u32) -> Result<(BTreeSet<Vec<u8>>, bool)> {
        let mut keys = BTreeSet::new();
        let mut key = self.next_key(None)?;
        for _ in 0..most {
            let Some(this) = key else { return Ok((keys, true)) };
            key = self.next_key(Some(&this))?;
            keys.insert(this);
        }
        Ok((keys, key.is_none()))
    }

    /// Reads one key at a time, and all keys before the first value.
    fn visit_keys(&self, f: &mut InBatch<'_>) -> Result<()> {
        // The limit ends the loop even if entries are added and deleted all the time.
        let (keys, _) = self.keys(self.capacity.saturating_mul(2))?;
        let mut value = vec![0u64; (self.stride() * self.copies).div_ceil(8)];
        for key in keys {
            READS.fetch_add(1, Ordering::Relaxed);
            // SAFETY: key and value are as long as the kernel reads and writes for this map.
            let result = unsafe {
                libbpf_sys::bpf_map_lookup_elem(
                    self.fd.as_raw_fd(),
                    key.as_ptr().cast(),
                    value.as_mut_ptr().cast(),
                )
            };
            match errno_of(result) {
                None => f(&key, &mut value, 0),
                Some(Errno::NOENT) => {}
                Some(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn next_key(&self, key: Option<&[u8]>) -> Result<Option<Vec<u8>>> {
        READS.fetch_add(1, Ordering::Relaxed);
        let mut next = vec![0u8; self.key_size];
        let key = key.map_or(ptr::null(), <[u8]>::as_ptr);
        // SAFETY: both keys are as long as this map's, or null for the first.
        let result = unsafe {
            libbpf_sys::bpf_map_get_next_key(self.fd.as_raw_fd(), key.cast(), next.as_mut_ptr().cast())
        };
        match errno_of(result) {
            None => Ok(Some(next)),
            Some(Errno::NOENT) => Ok(None),
            Some(errno) => Err(errno.into()),
        }
    }

    /// The bytes of element `index` of a batch. The CPUs' values are added up in the first one.
    fn sum<'v>(&self, values: &'v mut [u64], index: usize) -> &'v [u8] {
        let stride = self.stride();
        if self.copies > 1 {
            let words = stride / 8;
            let element = &mut values[index * words * self.copies..][..words * self.copies];
            let (total, others) = element.split_at_mut(words);
            for copy in others.chunks_exact(words) {
                for (total, word) in total.iter_mut().zip(copy) {
                    *total = total.wrapping_add(*word);
                }
            }
        }
        let start = index * stride * self.copies;
        &bytes_of(values)[start..start + self.value_size]
    }

    /// The bytes of element `index` of a batch, CPU by CPU.
    fn copies<'v>(&self, values: &'v [u64], index: usize) -> impl Iterator<Item = &'v [u8]> {
        let (stride, size) = (self.stride(), self.value_size);
        let element = &bytes_of(values)[index * stride * self.copies..][..stride * self.copies];
        element.chunks_exact(stride).map(move |copy| &copy[..size])
    }
}

fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: every byte of a u64 is initialised, and a byte has no alignment.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// libbpf returns the negative error number.
fn errno_of(result: i32) -> Option<Errno> {
    (result < 0).then(|| Errno::from_raw_os_error(-result))
}

/// `ENOTSUPP`, which the kernel returns although it is not a userland error number.
trait Enotsupp {
    const NOTSUP_524: Errno;
}

impl Enotsupp for Errno {
    const NOTSUP_524: Errno = Errno::from_raw_os_error(524);
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// The kernel rounds the value of each CPU up also where there is only one (kernel/bpf/syscall.c:
    /// `bpf_map_value_size`).
    #[test]
    fn values_of_a_single_cpu_take_the_room_that_the_kernel_fills() {
        let map = |kind, copies| {
            let fd = File::open("/dev/null").expect("a descriptor").into();
            LiveMap { fd, kind, key_size: 4, value_size: 12, capacity: 1, copies }
        };
        assert_eq!(map(MapType::PercpuHash, 1).stride(), 16);
        assert_eq!(map(MapType::PercpuArray, 4).stride(), 16);
        assert_eq!(map(MapType::Hash, 1).stride(), 12);
    }
}
