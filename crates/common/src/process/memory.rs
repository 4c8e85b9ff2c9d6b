// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits the memory that the allocator holds. Reading the kernel's BTF takes 10 MB for a moment,
//! and glibc gives each thread a heap of its own.

/// Lets all threads use one heap: they allocate only a few times a minute. Disables huge pages: one
/// page of 2 MB for a stack or a heap is most of the memory that a process needs.
pub fn one_heap() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        log::debug!("failed to disable huge pages: {error}");
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a parameter of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns free memory to the kernel.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; glibc locks its heaps while it looks at them.
    unsafe {
        libc::malloc_trim(0);
    }
}
