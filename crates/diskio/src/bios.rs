// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices whose drivers take bios, or pages without one.

/// Maps that only the hooks of these devices feed.
pub const MAPS: [&str; 2] = ["bio_stats", "bio_start"];

/// Programs that count pages which reach a driver without a bio, best first.
pub const PAGES: [&str; 2] = [
    "page_read_fentry+page_read_fexit+page_write_fentry+page_write_fexit",
    "page_read_kprobe+page_read_kretprobe+page_write_kprobe+page_write_kretprobe",
];
