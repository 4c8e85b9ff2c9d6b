// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Prometheus or a VictoriaMetrics that scrapes the simulated hosts, and what it costs.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::guest::image::remove;
use crate::workspace::{files, output, root, tool};

/// Clusters that hosts are divided into.
const CLUSTERS: usize = 4;

/// Time between two questions whether something has come.
const PAUSE: Duration = Duration::from_millis(500);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Prometheus, which asks for text.
    Classic,
    /// Prometheus, which asks for native histograms.
    Native,
    /// VictoriaMetrics, which asks for text.
    Victoria,
}

impl Kind {
    /// As it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "Prometheus, classic",
            Self::Native => "Prometheus, native",
            Self::Victoria => "VictoriaMetrics",
        }
    }
}

/// A running server. It is ended when this is dropped.
pub struct Engine {
    child: Child,
    url: String,
    folder: PathBuf,
    kind: Kind,
}

/// What a server has used and done since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, in seconds.
    pub cpu: f64,
    /// Samples that it took.
    pub samples: f64,
    /// Resident memory, in bytes.
    pub memory: f64,
    /// Time in which rules were evaluated, in seconds.
    pub rules: f64,
}

impl Engine {
    /// Starts it with the jobs of `exporters` on `hosts` hosts, which `port` serves.
    ///
    /// # Errors
    /// When it is not installed or does not answer.
    pub fn start(kind: Kind, hosts: usize, interval: u64, port: u16, exporters: &[&str]) -> Result<Self> {
        let folder = root().join("target/fleet");
        remove(&folder)?;
        fs::create_dir_all(folder.join("rules"))?;
        let jobs: Vec<Value> =
            exporters.iter().map(|name| job(kind, &folder, name, hosts, port)).collect::<Result<_>>()?;
        let mut config = json!({
            "global": { "scrape_interval": format!("{interval}s"), "scrape_timeout": format!("{interval}s") },
            "scrape_configs": jobs,
        });
        if kind != Kind::Victoria {
            config["rule_files"] = json!([folder.join("rules/*.yml")]);
            for path in
                files("rules", ".yml")?.iter().filter(|path| !path.to_string_lossy().contains("/tests/"))
            {
                fs::copy(path, folder.join("rules").join(path.file_name().context("no name")?))?;
            }
        }
        // JSON is YAML.
        let file = folder.join("config.yml");
        fs::write(&file, serde_json::to_string_pretty(&config)?)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let data = folder.join("data");
        let mut command = match kind {
            Kind::Victoria => {
                let mut command = tool("victoria-metrics");
                command.arg(format!("-promscrape.config={}", file.display()));
                command.arg(format!("-storageDataPath={}", data.display()));
                command.arg(format!("-httpListenAddr={address}"));
                // Queries without rules read many series, and take their time.
                command.arg("-search.maxUniqueTimeseries=10000000").arg("-search.maxQueryDuration=10m");
                command
            }
            Kind::Classic | Kind::Native => {
                let mut command = tool("prometheus");
                command.arg(format!("--config.file={}", file.display()));
                command.arg(format!("--storage.tsdb.path={}", data.display()));
                command.arg(format!("--web.listen-address={address}")).arg("--web.enable-admin-api");
                command
            }
        };
        if kind == Kind::Native {
            command.arg("--enable-feature=native-histograms");
        }
        let log = fs::File::create(folder.join("log"))?;
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        let child = child.with_context(|| format!("{}: run scripts/packages fleet", kind.name()))?;
        let engine = Self { child, url: format!("http://{address}"), folder, kind };
        engine.wait("an answer", Duration::from_secs(60), || Ok(engine.ask("vector(1)").is_ok()))?;
        Ok(engine)
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn wait(&self, what: &str, time: Duration, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + time;
        // A query may take too long while much else is done.
        while !is_so().unwrap_or_default() {
            if Instant::now() > deadline {
                bail!(
                    "{}: no {what} within {time:?}, see {}",
                    self.kind.name(),
                    self.folder.join("log").display()
                );
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The series that a query has now, and how long the answer took, in seconds.
    ///
    /// # Errors
    /// When the query fails.
    pub fn ask(&self, query: &str) -> Result<(Vec<Value>, f64)> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", &format!("{}/api/v1/query", self.url), "-w", "\n%{time_total}"]);
        let text = output(curl.args(["--data-urlencode", &format!("query={query}")]))?;
        let (answer, seconds) = text.rsplit_once('\n').context("no time")?;
        let answer: Value = serde_json::from_str(answer).with_context(|| answer.to_owned())?;
        let result = answer["data"]["result"].as_array().with_context(|| format!("{query}: {answer}"))?;
        Ok((result.clone(), seconds.parse()?))
    }

    /// The one number that a query has now; 0 if it has none.
    ///
    /// # Errors
    /// Those of [`Engine::ask`].
    pub fn number(&self, query: &str) -> Result<f64> {
        let (found, _) = self.ask(query)?;
        Ok(found.first().and_then(|sample| sample["value"][1].as_str()?.parse().ok()).unwrap_or_default())
    }

    /// Sum of a metric of the server itself.
    fn own(&self, name: &str) -> Result<f64> {
        let page = output(Command::new("curl").args(["-sS", &format!("{}/metrics", self.url)]))?;
        let of = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{']).then(|| line.rsplit_once(' ')?.1.parse::<f64>().ok())?
        };
        Ok(page.lines().filter_map(of).sum())
    }

    /// What it has used and done.
    ///
    /// # Errors
    /// When it has ended.
    pub fn usage(&self) -> Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(process.join("status"))?;
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let (samples, rules) = match self.kind {
            Kind::Victoria => ("vm_rows_inserted_total{type=\"promscrape\"}", "no_rules"),
            _ => (
                "prometheus_tsdb_head_samples_appended_total",
                "prometheus_rule_evaluation_duration_seconds_sum",
            ),
        };
        Ok(Usage {
            cpu: self.own("process_cpu_seconds_total")?,
            samples: self.own(samples)?,
            memory: resident.context("no VmRSS")?.parse::<f64>()? * 1024.0,
            rules: self.own(rules)?,
        })
    }

    /// Series that it has, of the hosts and its own rules.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn series(&self) -> Result<f64> {
        match self.kind {
            // To count all by a query takes longer than a query may where there are millions.
            Kind::Victoria => self.own("vm_cache_entries{type=\"storage/hour_metric_ids\"}"),
            Kind::Classic | Kind::Native => self.number("count({__name__=~\".+\"})"),
        }
    }

    /// Bytes on disk of all samples that it has, and how many these are: with Prometheus a block of what is in
    /// memory, with VictoriaMetrics what it has after it has written all.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn disk(&self) -> Result<(f64, f64)> {
        if self.kind == Kind::Victoria {
            output(Command::new("curl").args(["-sS", &format!("{}/internal/force_flush", self.url)]))?;
            return Ok((
                size(&self.folder.join("data"))?,
                self.own("vm_rows{type=\"storage/big\"}")? + self.own("vm_rows{type=\"storage/small\"}")?,
            ));
        }
        let samples = self.own("prometheus_tsdb_head_samples_appended_total")?;
        output(Command::new("curl").args([
            "-sS",
            "-XPOST",
            &format!("{}/api/v1/admin/tsdb/snapshot", self.url),
        ]))?;
        Ok((size(&self.folder.join("data/snapshots"))?, samples))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A scrape job, whose targets are in a file.
fn job(kind: Kind, folder: &Path, exporter: &str, hosts: usize, port: u16) -> Result<Value> {
    let target = |host: usize| {
        json!({ "targets": [format!("127.0.0.1:{port}")], "labels": {
            "instance": format!("host-{host}"), "cluster": format!("c{}", host % CLUSTERS),
            "__metrics_path__": format!("/{host}/{exporter}"),
        } })
    };
    let path = folder.join(format!("{exporter}.json"));
    fs::write(&path, serde_json::to_string(&(0..hosts).map(target).collect::<Vec<_>>())?)?;
    let mut job = json!({ "job_name": format!("ebpf-{exporter}"), "file_sd_configs": [{ "files": [path] }] });
    // Else it keeps a connection to each target, and the one process of all hosts needs a thread and two
    // descriptors for each.
    if kind == Kind::Victoria {
        job["disable_keepalive"] = json!(true);
    }
    Ok(job)
}

/// Bytes of the files below a folder.
fn size(folder: &Path) -> Result<f64> {
    let text = output(Command::new("du").arg("--summarize").arg("--bytes").arg(folder))?;
    Ok(text.split_whitespace().next().unwrap_or_default().parse()?)
}
