// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keeping the allocator small: reading the kernel's BTF takes 10 MB for a moment, and
//! each thread would get a heap of its own.

/// One heap for all threads, which allocate a few times a minute, and no huge pages: one
/// page of 2 MB under a stack or a heap is most of what a process needs.
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

/// Gives free memory back to the kernel.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; glibc locks its heaps while it looks at them.
    unsafe {
        libc::malloc_trim(0);
    }
}
