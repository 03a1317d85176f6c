//! The man page, from the table of flags.

use std::fmt::Write;

use super::own;

/// What is installed, read and written, as the packages and the unit have it.
const FILES: [(&str, &str); 11] = [
    ("/etc/dcgm-exporter/default-counters.csv", "Which fields to export: name, type, help"),
    ("/etc/dcgm-exporter/*.csv", "Other counters files, for --collectors"),
    ("/etc/dcgm-exporter/environment", "Variables of the service, of the prolog and of the epilog"),
    ("/etc/systemd/system/dcgm-exporter.service.d/", "Drop-ins for the unit; systemctl edit dcgm-exporter makes one"),
    ("/run/dcgm-job-map/", "Which job has which GPU; prolog and epilog write it"),
    ("/run/dcgm-exporter/", "The one directory below /run that the unit lets the service write to: for a socket"),
    ("/run/dcgm-exporter/pause-profiling", "While it exists, profiling fields are not watched"),
    ("/var/lib/dcgm-exporter/", "Summaries of jobs"),
    ("/var/spool/dcgm-exporter/", "Lines of the epilog about jobs that have ended"),
    (
        "/usr/share/dcgm-exporter/",
        "Scripts for Slurm, rules, dashboards, drop-ins; after make install /usr/local/share/dcgm-exporter",
    ),
    ("/usr/share/doc/dcgm-exporter/", "README and guides; after make install /usr/local/share/doc/dcgm-exporter"),
];

/// The page in troff.
pub fn page() -> String {
    let mut page = format!(
        ".TH DCGM-EXPORTER 1 \"\" \"dcgm-exporter {}\"\n.SH NAME\ndcgm\\-exporter \\- metrics of NVIDIA datacenter GPUs for \
         Prometheus\n.SH SYNOPSIS\n.B dcgm\\-exporter\n[\\fIFLAGS\\fR]\n.SH DESCRIPTION\nReads NVIDIA DCGM, embedded or in a \
         running host engine, and serves its fields as Prometheus metrics on /metrics. /health reports the state.\n.SH FLAGS\nFlags take one or two dashes. Give the value as the next word or after an equals sign. Where a \
         flag is not given, its environment variable is used. \\-\\-help lists all flags, \\-\\-help \\fIFLAG\\fR shows one, \
         \\-\\-help inherited those of NVIDIA's dcgm\\-exporter that have no effect.\n",
        env!("CARGO_PKG_VERSION")
    );
    for group in own::GROUPS {
        let _ = writeln!(page, ".SS {}", group.title);
        for flag in group.flags {
            let _ = write!(page, ".TP\n\\fB\\-\\-{}\\fR", escaped(flag.long));
            if let Some(short) = flag.short {
                let _ = write!(page, ", \\fB\\-{short}\\fR");
            }
            if let Some(value) = flag.value() {
                let _ = write!(page, " \\fI{}\\fR", escaped(&value));
            }
            let _ = write!(page, "\n{}.", escaped(flag.help));
            if !flag.details.is_empty() {
                let _ = write!(page, " {}", escaped(flag.details));
            }
            if !flag.variable.is_empty() {
                let _ = write!(page, "\n.br\nVariable: {}.", flag.variable);
            }
            if let Some(default) = flag.shown_default() {
                let _ = write!(page, "\n.br\nDefault: {}.", escaped(default));
            }
            if !flag.example.is_empty() {
                let _ = write!(page, "\n.br\nExample: \\fBdcgm\\-exporter {}\\fR", escaped(flag.example));
            }
            page.push('\n');
        }
    }
    page.push_str(
        ".SH SIGNALS\n.TP\nSIGHUP\nReads the configuration file and the counters file again.\n.TP\nSIGUSR1\nReleases the GPUs, for a reset or a driver \
         reload.\n.TP\nSIGUSR2\nUses the GPUs again.\n.TP\nSIGTERM, SIGINT, SIGQUIT\nReleases everything and exits.\n.SH EXIT \
         STATUS\n0 after a signal to exit, 1 if the exporter could not start or stop as it should, 70 if a bug ended one of its threads. Of \\-\\-check: 0 ok, 1 \
         warnings, 2 failures.\n.SH FILES\n",
    );
    for (file, what) in FILES {
        let _ = write!(page, ".TP\n{}\n{}.\n", escaped(file), escaped(what));
    }
    page
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_documented() {
        let page = page();
        for flag in own::GROUPS.iter().flat_map(|group| group.flags) {
            assert!(page.contains(&escaped(flag.long)) && page.contains(flag.variable), "{}", flag.long);
            assert!(page.contains(&escaped(flag.details)) && page.contains(&escaped(flag.example)), "{}", flag.long);
        }
        // A line that begins with a dot or an apostrophe would be a request to troff.
        assert!(page.lines().all(|line| !line.starts_with('\'') && line.trim_end() == line), "{page}");
    }
}
