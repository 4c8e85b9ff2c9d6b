// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exporter of users' own BPF programs: which objects to load and what their maps mean is read from
//! files, in the format of ebpf_exporter.

mod cgroups;
mod compile;
mod config;
mod events;
mod flags;
#[cfg(test)]
mod fuzz;
mod headlines;
mod objects;
mod parts;
mod render;
mod shared;
mod spans;
mod start;
mod steps;
mod wrongs;

use std::process::ExitCode;

use clap::Parser;
use common::process::exporter;
use common::spec::Spec;

/// Port, and what it is for.
fn spec() -> Spec {
    Spec::new("custom", 9435, "what do your own BPF programs count?").headlines(headlines::headlines())
}

/// First argument that asks for a compilation instead of an exporter.
const BUILD: &str = "build";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == BUILD) {
        return build();
    }
    exporter::run_with(&spec(), |cli| start::start(cli, spec()))
}

fn build() -> ExitCode {
    /// Compiles a program for this exporter.
    #[derive(Parser)]
    #[command(name = "ebpf-custom-exporter build", bin_name = "ebpf-custom-exporter build")]
    struct Build {
        #[command(flatten)]
        args: compile::Args,
    }
    match compile::run(&Build::parse_from(std::env::args_os().skip(1)).args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manual_page_is_current() {
        let folder = env!("CARGO_MANIFEST_DIR");
        common::fixture::golden_manual::<crate::flags::Flags>(folder, &super::spec()).expect("current");
    }

    #[test]
    fn headlines_are_of_what_every_exporter_tells_of_itself() {
        let page = "ebpf_exporter_ebpf_program_attached{config=\"a\",program=\"p\"} 1\n\
                    ebpf_exporter_ebpf_program_attached{config=\"b\",program=\"p\"} 1\n\
                    ebpf_exporter_lost_events_total{config=\"b\",reason=\"map_full\"} 6\n";
        assert_eq!(
            common::fixture::headlines(&super::spec(), page).expect("two"),
            "2 programs attached | 2 programs attached\n3 events lost/s: b | none lost\n"
        );
    }
}
