// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask shell`: a guest with the package installed, for debugging by hand.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::Guest;
use crate::guest::accel::Accel;
use crate::guest::image::remove;
use crate::guest::suites::suite;
use crate::release::package;
use crate::workspace::root;

/// A year: a shell has no time limit.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Time limit for copying files out of the guest.
const FILES: Duration = Duration::from_secs(60);

/// A shell on the guest's serial port. It has a terminal, so that Ctrl-C and job control work.
const SHELL: &str =
    "stty -F /dev/ttyS0 sane; cd /root; TERM=linux setsid -c bash -li < /dev/ttyS0 > /dev/ttyS0 2>&1";

/// Boots the guest `name` with the package installed and the files `put` in /payload/files. Runs
/// `script`, or a shell on this terminal. Afterwards copies the guest's folder /out to
/// target/shell/out.
///
/// # Errors
/// When there is no such guest, it does not boot, or the script fails.
pub fn run(name: &str, script: Option<&Path>, put: &[impl AsRef<Path>], accel: Option<Accel>) -> Result<()> {
    let suite = suite(name)?;
    let work = root().join("target/shell");
    let payload = work.join("payload");
    remove(&payload)?;
    fs::create_dir_all(payload.join("files"))?;
    fs::copy(package::for_tests()?, payload.join("ebpf-exporters.deb"))?;
    for path in put {
        let path = path.as_ref();
        let name = path.file_name().with_context(|| format!("{} is no file", path.display()))?;
        fs::copy(path, payload.join("files").join(name)).with_context(|| path.display().to_string())?;
    }
    let mut executables = vec![(
        "setup",
        "#!/bin/sh\nmkdir -p /out; exec dpkg --force-unsafe-io -i /payload/ebpf-exporters.deb\n".to_owned(),
    )];
    if let Some(script) = script {
        let text = fs::read_to_string(script).with_context(|| script.display().to_string())?;
        executables.push(("script", text));
    }
    for (name, text) in executables {
        fs::write(payload.join(name), text)?;
        fs::set_permissions(payload.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let guest = Guest::of(suite, accel)?;
    let state = guest.ready(&payload, &work.join("ready"), &mut |_| {})?;
    let folder = work.join("guest");
    // The path of a socket must be short, so it is not below target/.
    let terminal = std::env::temp_dir().join(format!("ebpf-exporters-shell-{}", std::process::id()));
    let serial = format!("unix:{},server=on,wait=off", terminal.display());
    let mut machine = guest.resume(&state, &folder, script.is_none().then_some(&*serial))?;
    let mut print = |line: &str| println!("{line}");
    let code = if script.is_some() {
        machine.command("/payload/script", FOR_EVER, &mut print)?
    } else {
        println!(
            "a shell in {name}; files put are in /payload/files, what is in /out comes back; it ends with exit or Ctrl-]"
        );
        thread::scope(|scope| {
            let shell = scope.spawn(|| machine.command(SHELL, FOR_EVER, &mut |line| println!("{line}")));
            let mut connect = Command::new("socat");
            connect.arg("-,raw,echo=0,escape=0x1d").arg(format!("UNIX-CONNECT:{}", terminal.display()));
            // Ctrl-] ends socat; the shell in the guest goes on.
            let mut connection = connect.spawn().context("failed to start socat")?;
            while !shell.is_finished() {
                if connection.try_wait()?.is_some() {
                    bail!("disconnected");
                }
                thread::park_timeout(Duration::from_millis(200));
            }
            connection.kill()?;
            connection.wait()?;
            shell.join().map_err(|_| anyhow::anyhow!("the shell's thread panicked"))?
        })?
    };
    let mut files = String::new();
    machine.command("tar -C /out -czf - . | base64", FILES, &mut |line| {
        files.push_str(line);
        files.push('\n');
    })?;
    let out = work.join("out");
    remove(&out)?;
    fs::create_dir_all(&out)?;
    let mut unpack = Command::new("sh");
    unpack.args(["-c", "base64 -d | tar -C \"$1\" -xzf -", "sh"]).arg(&out).stdin(Stdio::piped());
    let mut unpack = unpack.spawn().context("failed to start sh")?;
    unpack.stdin.take().context("no standard input")?.write_all(files.as_bytes())?;
    if !unpack.wait()?.success() {
        bail!("what is in /out did not come back");
    }
    println!("what was in /out is in {}", out.display());
    match code {
        0 => Ok(()),
        code => bail!("exit {code}"),
    }
}
