// SPDX-License-Identifier: MIT OR Apache-2.0
//! Operations that the kernel's own numbers of a task leave out.

/// Programs that count those of aio, best first.
pub const AIO: [&str; 2] = ["aio_read_fexit+aio_write_fexit", "aio_read_kretprobe+aio_write_kretprobe"];

/// Programs that count those of io_uring, best first.
pub const URING: [&str; 5] = [
    "io_read_each_fexit+io_write_fexit",
    "io_read_fexit+io_write_fexit",
    "io_read_three_fexit+io_write_three_fexit",
    "io_read_each_kretprobe+io_write_kretprobe",
    "io_read_kretprobe+io_write_kretprobe",
];
