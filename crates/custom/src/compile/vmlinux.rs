// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vmlinux.h` of a kernel: all its types as C, from its BTF. libbpf writes them, so that no bpftool is
//! needed.

use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::{env, fs, process};

use anyhow::{Context, Result, bail};

/// What comes before the types. Members are found wherever the running kernel has them.
const BEFORE: &str = "\
#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#endif

";

const AFTER: &str = "\
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
";

/// A folder with `vmlinux.h`, which goes with this value.
#[derive(Debug)]
pub(super) struct Header(PathBuf);

impl Header {
    /// Writes it: of the kernel that runs, or of the BTF in a file.
    ///
    /// # Errors
    /// When the kernel has no BTF, or the file is none, or the folder cannot be written to.
    pub(super) fn of(btf: Option<&Path>) -> Result<Self> {
        let header = Self::empty(&env::temp_dir())?;
        let path = header.0.join("vmlinux.h");
        write(&path, btf).with_context(|| format!("failed to write {}", path.display()))?;
        Ok(header)
    }

    /// A new folder that only its owner can write to.
    fn empty(parent: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        for n in 0..1000 {
            let folder = parent.join(format!("ebpf-custom-exporter.{}.{n}", process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context(format!("failed to make {}", folder.display())),
            }
        }
        bail!("{} is full of our folders: remove them", parent.display());
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Header {
    fn drop(&mut self) {
        // The system cleans its temporary folder, if this fails.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Types as libbpf holds them.
struct Types(NonNull<libbpf_sys::btf>);

impl Drop for Types {
    fn drop(&mut self) {
        // SAFETY: it was loaded by libbpf and nothing refers to it any longer.
        unsafe { libbpf_sys::btf__free(self.0.as_ptr()) };
    }
}

fn types(btf: Option<&Path>) -> Result<Types> {
    let loaded = match btf {
        Some(path) => {
            let text = CString::new(path.as_os_str().as_bytes()).context("a path with a NUL")?;
            // SAFETY: the path is NUL-terminated; the second argument may be NULL.
            unsafe { libbpf_sys::btf__parse(text.as_ptr(), ptr::null_mut()) }
        }
        // SAFETY: it takes no arguments.
        None => unsafe { libbpf_sys::btf__load_vmlinux_btf() },
    };
    let why = io::Error::last_os_error();
    match (NonNull::new(loaded), btf) {
        (Some(types), _) => Ok(Types(types)),
        (None, Some(path)) => Err(why).with_context(|| format!("{} is no BTF", path.display())),
        (None, None) => Err(why).context(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux): it needs CONFIG_DEBUG_INFO_BTF=y; or name a \
             file with --btf, or a folder that has a vmlinux.h with --include",
        ),
    }
}

/// Where libbpf's output goes.
struct Output {
    file: RawFd,
    failed: bool,
}

unsafe extern "C" fn print(
    output: *mut c_void,
    format: *const c_char,
    arguments: *mut libbpf_sys::__va_list_tag,
) {
    // SAFETY: `write` passed an `Output`, to which it has no other reference meanwhile.
    let output = unsafe { &mut *output.cast::<Output>() };
    // SAFETY: libbpf passes a format and the arguments that belong to it.
    output.failed |= unsafe { libbpf_sys::vdprintf(output.file, format, arguments) } < 0;
}

fn write(path: &Path, btf: Option<&Path>) -> Result<()> {
    let types = types(btf)?;
    let mut file = File::create(path)?;
    file.write_all(BEFORE.as_bytes())?;
    let mut output = Output { file: file.as_raw_fd(), failed: false };
    // SAFETY: the types live longer than `dump`, and so does `output`.
    let dump = unsafe {
        let output = (&raw mut output).cast::<c_void>();
        libbpf_sys::btf_dump__new(types.0.as_ptr(), Some(print), output, ptr::null())
    };
    let dump = NonNull::new(dump).ok_or_else(io::Error::last_os_error).context("libbpf refuses the BTF")?;
    // SAFETY: `types` holds types.
    let count = unsafe { libbpf_sys::btf__type_cnt(types.0.as_ptr()) };
    // SAFETY: `dump` is libbpf's, and the numbers are those of types.
    let failed = (1..count).find(|id| unsafe { libbpf_sys::btf_dump__dump_type(dump.as_ptr(), *id) } < 0);
    let why = io::Error::last_os_error();
    // SAFETY: it is not used after this.
    unsafe { libbpf_sys::btf_dump__free(dump.as_ptr()) };
    if let Some(id) = failed {
        return Err(why).context(format!("libbpf cannot write type {id}"));
    }
    if output.failed {
        bail!("not all could be written: is the disk full?");
    }
    file.write_all(AFTER.as_bytes())?;
    Ok(())
}
