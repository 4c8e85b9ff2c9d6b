// SPDX-License-Identifier: MIT OR Apache-2.0
//! What systemd is told.

use std::time::Duration;

use live::exporter::Exporter;
use live::notify::Listener;
use rustix::process::Signal;

use crate::folder::Folder;

#[live::test]
fn systemd_is_told_how_the_start_goes_and_how_much_is_attached() {
    let listener = Listener::new(Duration::from_secs(60));
    let start = ["STATUS=parsing config...", "STATUS=creating exporter...", "STATUS=attaching configs..."];
    for (configs, ready) in [
        (&["bytes"][..], "ready with 1 config, 1 of 1 probe attached"),
        (&["bytes", "partial"], "ready with 2 configs, 2 of 5 probes attached"),
    ] {
        let folder = Folder::of(configs);
        let exporter = Exporter::spawn(listener.hear(&mut folder.command(&[])));
        let heard = listener.until("READY=1");
        let (last, before) = heard.split_last().unwrap();
        assert_eq!(
            (before, last.as_str()),
            (&start.map(str::to_owned)[..], &*format!("READY=1 STATUS={ready}"))
        );
        exporter.end(Signal::TERM);
        assert_eq!(listener.until("STOPPING=1"), ["STOPPING=1 STATUS=detaching probes"]);
    }
}
