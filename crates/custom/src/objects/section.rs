// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sections of programs that libbpf does not know: `perf_event/type=1,config=0,frequency=99` and
//! `xdp/INTERFACE`.

/// How to attach the programs of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Section {
    /// At samples of a perf event, on every CPU.
    Perf(Sampling),
    /// At packets that an interface receives.
    Xdp(String),
    /// As libbpf does.
    Libbpf,
}

/// An event of `perf_event_open(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Type, such as 1 for software events.
    pub kind: u32,
    /// Which event of that type.
    pub config: u64,
    /// Samples a second.
    pub frequency: u64,
}

impl Section {
    /// Parses the name of a section.
    ///
    /// # Errors
    /// When the name begins like one of ours and goes on with something else. The error says what
    /// is expected.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name.split_once('/') {
            Some(("perf_event", event)) => sampling(event).map(Self::Perf).map_err(|why| {
                format!(
                    "section {name}: {why}; expected perf_event/type=NUMBER,config=NUMBER,frequency=NUMBER"
                )
            }),
            Some(("xdp", interface)) => Ok(Self::Xdp(interface.to_owned())),
            _ => Ok(Self::Libbpf),
        }
    }
}

fn sampling(event: &str) -> Result<Sampling, String> {
    let mut sampling = Sampling::default();
    for item in event.split(',') {
        let (key, value) = item.split_once('=').ok_or_else(|| format!("{item:?} is no KEY=NUMBER"))?;
        let wrong = |_| format!("{value:?} is no number for {key}");
        match key {
            "type" => sampling.kind = value.parse().map_err(wrong)?,
            "config" => sampling.config = value.parse().map_err(wrong)?,
            "frequency" => sampling.frequency = value.parse().map_err(wrong)?,
            _ => return Err(format!("{key:?} is unknown")),
        }
    }
    if sampling.frequency == 0 {
        return Err("frequency is missing or 0, so the program would never run".to_owned());
    }
    Ok(sampling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_perf_events_name_type_config_and_frequency() {
        let parsed = Section::parse("perf_event/type=1,config=0,frequency=99");
        assert_eq!(parsed, Ok(Section::Perf(Sampling { kind: 1, config: 0, frequency: 99 })));
        let parsed = Section::parse("perf_event/frequency=1,config=3,type=0");
        assert_eq!(parsed, Ok(Section::Perf(Sampling { kind: 0, config: 3, frequency: 1 })));
        for (section, word) in [
            ("perf_event/", "KEY=NUMBER"),
            ("perf_event/type=1,config=0", "frequency"),
            ("perf_event/type=1,config=0,frequency=0", "frequency"),
            ("perf_event/type=x,config=0,frequency=1", "\"x\""),
            ("perf_event/type=1,config=0x1,frequency=1", "\"0x1\""),
            ("perf_event/type=1,config=0,frequency=1,period=1", "period"),
            ("perf_event/type=-1,config=0,frequency=1", "\"-1\""),
            ("perf_event/type=4294967296,config=0,frequency=1", "4294967296"),
            ("perf_event/type=1,,frequency=1", "KEY=NUMBER"),
        ] {
            let why = Section::parse(section).expect_err(section);
            assert!(why.contains(word) && why.contains(section), "{why}");
        }
    }

    #[test]
    fn other_sections_are_those_of_libbpf() {
        assert_eq!(Section::parse("xdp/eth0"), Ok(Section::Xdp("eth0".to_owned())));
        for section in ["xdp", "perf_event", "xdp.frags/devmap", "tp_btf/sys_enter", ""] {
            assert_eq!(Section::parse(section), Ok(Section::Libbpf), "{section}");
        }
    }
}
