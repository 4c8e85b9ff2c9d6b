// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lines for what is not a terminal: a pipe, a file, a log.

use crate::rows::Row;

/// A line with the names of the columns, and one for each exporter.
pub fn table(rows: &[Row]) -> String {
    let mut cells = vec![["EXPORTER", "STATE", "ADDRESS", "HEADLINE"].map(ToOwned::to_owned)];
    cells.extend(rows.iter().map(|row| {
        [row.name.clone(), row.state.word().to_owned(), row.address.clone(), row.says.join(", ")]
    }));
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [name, state, address] = [0, 1, 2].map(width);
    let line = |[a, b, c, d]: &[String; 4]| {
        format!("{a:<name$}  {b:<state$}  {c:<address$}  {d}").trim_end().to_owned()
    };
    cells.iter().map(line).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::State;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let row = |name: &str, state, address: &str, says: &[&str]| Row {
            subject: 0,
            name: name.to_owned(),
            state,
            address: address.to_owned(),
            says: says.iter().map(ToString::to_string).collect(),
        };
        let rows = [
            row("diskio", State::Running, ":9101", &["read p99 1.3 ms on nvme0n1", "no writes"]),
            row("zfs-metaslab", State::Waiting, "db1:9113", &[]),
        ];
        let expected = "EXPORTER      STATE    ADDRESS   HEADLINE\n\
                        diskio        running  :9101     read p99 1.3 ms on nvme0n1, no writes\n\
                        zfs-metaslab  waiting  db1:9113\n";
        assert_eq!(table(&rows), expected);
    }
}
