//! Parsing: which value each flag has, from the command line, else the environment, else the configuration file, else
//! the table's default.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::flag::{self, Effect, Flag, Kind, Refusal};
use super::{Command, completion, help, man, values};
use crate::config::file::{self, ConfigFile, Setting};
use crate::config::{CheckFormat, Config};
use crate::system::files;
use crate::system::printable::cut;

/// Understands a command line (without the program's name) in an environment, and reads the configuration file that they
/// name.
///
/// Errors: a line that names the flag, the value and what would be right; for what is wrong with the configuration file,
/// a line for each problem.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Command, String> {
    parse_in(arguments, environment, |path| PathBuf::from(path))
}

/// The same; the configuration file is read where `locate` has the path that is given.
pub fn parse_in(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
    locate: impl Fn(&str) -> PathBuf,
) -> Result<Command, String> {
    let typed = match read_arguments(arguments)? {
        Typed::Values(values) => values,
        Typed::Print(text) => return Ok(Command::Print(text)),
    };
    let mut config = Config { warnings: typed.warnings, ..Config::default() };
    let mut given = Vec::new();
    for (flag, typed) in flag::all().zip(typed.values) {
        given.push(match typed {
            Some(value) => Some((value, format!("--{}", flag.long))),
            None if flag.variable.is_empty() => None,
            None => match environment(flag.variable).filter(|value| !value.is_empty()) {
                Some(value) => Some((text(value, flag.variable)?, format!("{} (--{})", flag.variable, flag.long))),
                None => None,
            },
        });
    }
    let given_for = |name: &str| flag::all().zip(&given).find(|(flag, _)| flag.long == name)?.1.as_ref();
    let mut file = None;
    if let Some((path, origin)) = given_for("config-file").filter(|(path, _)| !path.is_empty()) {
        let located = locate(path).display().to_string();
        let path = values::absolute(&located).map_err(|right| refused(Refusal::Value(right), origin, path))?;
        let ConfigFile { settings, rows, collections, warnings, .. } = read_file(&path, origin)?;
        // A counters file that is given counts before the rows.
        config.rows = rows.filter(|_| given_for("collectors").is_none());
        config.collections = collections;
        config.warnings.extend(warnings.iter().map(|warning| format!("{}:{warning}", path.display())));
        file = Some((path, settings));
    }
    let mut origins = Vec::new();
    for (flag, given) in flag::all().zip(given) {
        let of_file = file.as_ref().and_then(|(path, settings)| Some((path, setting_of(flag, settings)?)));
        let (value, origin, name) = match (given, of_file) {
            (Some((value, origin)), _) => (value, origin, format!("--{}", flag.long)),
            (None, Some((path, Setting { value, at, key, .. }))) => {
                let origin = format!("{}:{}:{}: {key}", path.display(), at.line, at.column);
                (value.clone(), origin.clone(), origin)
            }
            (None, None) => (flag.default.to_owned(), format!("--{}", flag.long), format!("--{}", flag.long)),
        };
        (flag.apply)(&mut config, &value).map_err(|refusal| refused(refusal, &origin, &value))?;
        if let Effect::None(why) = flag.effect
            && value != flag.default
        {
            config.warnings.push(format!("{name} has no effect: {why}"));
        }
        origins.push((flag, value, origin));
    }
    if let Some((path, _)) = file {
        config.config_file = Some(path);
    }
    for (name, needed) in NEEDS {
        let is_set = |name: &str| {
            origins.iter().find(|(flag, ..)| flag.long == name).is_some_and(|(flag, value, _)| value != flag.default)
        };
        if is_set(name) && !is_set(needed) {
            config.warnings.push(format!("--{name} has no effect: it needs --{needed}"));
        }
    }
    for (flag, value, origin) in &origins {
        (flag.check)(&mut config).map_err(|refusal| refused(refusal, origin, value))?;
    }
    config.warnings.extend(config.uneven_intervals());
    Ok(Command::Run(Box::new(config)))
}

/// Flags that do nothing without another one.
const NEEDS: [(&str, &str); 8] = [
    ("dcgm-log-level", "enable-dcgm-log"),
    ("gpu-bind-unbind-poll-interval", "enable-gpu-bind-unbind-watch"),
    ("file-sd-address", "file-sd-dir"),
    ("job-map-insecure", "hpc-job-mapping-dir"),
    ("job-labels", "hpc-job-mapping-dir"),
    ("job-summary-days", "job-summary-dir"),
    ("job-summary-short", "job-summary"),
    ("container-runtime-socket", "container-labels"),
];

fn setting_of<'a>(flag: &Flag, settings: &'a [Setting]) -> Option<&'a Setting> {
    settings.iter().find(|setting| setting.flag == flag.long)
}

/// Reads the configuration file.
///
/// Errors: a line for each problem.
fn read_file(path: &Path, origin: &str) -> Result<ConfigFile, String> {
    let shown = path.display();
    let bytes = files::read(path, file::LARGEST_FILE)
        .map_err(|error| format!("{origin}: cannot read configuration file {shown}: {error}"))?;
    ConfigFile::parse(&bytes).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(|problem| format!("{shown}:{problem}")).collect();
        lines.join("\n")
    })
}

fn refused(refusal: Refusal, origin: &str, value: &str) -> String {
    match refusal {
        Refusal::Value(right) => format!("{origin}: '{}' is not valid: {right}", cut(value)),
        Refusal::Flag(why) => format!("{origin} {why}"),
    }
}

/// Whether a command line that may be wrong in other ways asks for `--check`.
pub fn typed_check(mut arguments: impl Iterator<Item = OsString>) -> Option<CheckFormat> {
    arguments.find_map(|argument| match argument.to_str()? {
        "--check" | "-check" | "--check=table" | "-check=table" => Some(CheckFormat::Table),
        "--check=json" | "-check=json" => Some(CheckFormat::Json),
        _ => None,
    })
}

/// The value of `--root`, of a command line that may be wrong in other ways.
pub fn typed_root(arguments: impl Iterator<Item = OsString>) -> Option<OsString> {
    let mut arguments = arguments.map(with_two_dashes);
    while let Some(argument) = arguments.next() {
        if argument == "--root" {
            return arguments.next();
        }
        if let Some(value) = argument.to_str().and_then(|text| text.strip_prefix("--root=")) {
            return Some(value.into());
        }
    }
    None
}

enum Typed {
    Values(TypedValues),
    Print(String),
}

#[derive(Default)]
struct TypedValues {
    /// One slot for each row of the table; the last repetition wins.
    values: Vec<Option<String>>,
    warnings: Vec<String>,
}

fn read_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Typed, String> {
    use lexopt::Arg;

    let mut typed = TypedValues { values: vec![None; flag::all().count()], warnings: Vec::new() };
    let mut parser = lexopt::Parser::from_args(arguments.into_iter().map(with_two_dashes));
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        let (name, dashes) = match argument {
            Arg::Long(name) => (name.to_owned(), "--"),
            Arg::Short(letter) => (letter.to_string(), "-"),
            Arg::Value(value) => match value.to_str() {
                Some("help" | "h") => return help_about(&mut parser).map(Typed::Print),
                _ => {
                    typed.warnings.push(format!("argument '{}' is not used", cut(&value.to_string_lossy())));
                    continue;
                }
            },
        };
        match name.as_str() {
            "help" | "h" => return help_about(&mut parser).map(Typed::Print),
            "help-inherited" => return Ok(Typed::Print(help::help_inherited(help::width()))),
            "version" | "v" => return Ok(Typed::Print(format!("dcgm-exporter {}\n", env!("CARGO_PKG_VERSION")))),
            "generate" => {
                let what = parser.value().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
                return generate(&what).map(Typed::Print);
            }
            _ => {}
        }
        let called = flag::all().enumerate().find(|(_, flag)| flag.is_called(&name));
        let (index, flag) = called.ok_or_else(|| flag::unknown(&name, dashes))?;
        let value = match flag.kind {
            Kind::Switch => parser.optional_value().unwrap_or_else(|| OsString::from("true")),
            Kind::Optional(_) => match parser.optional_value() {
                Some(value) => value,
                None => {
                    let is_value = |word: &std::ffi::OsStr| !word.as_encoded_bytes().starts_with(b"-");
                    let next = parser.try_raw_args().and_then(|mut words| words.next_if(is_value));
                    next.unwrap_or_else(|| OsString::from("true"))
                }
            },
            Kind::Value(what) | Kind::List(what) => {
                parser.value().map_err(|_| format!("--{} needs a value: --{} {what}", flag.long, flag.long))?
            }
        };
        let value = text(value, &format!("--{}", flag.long))?;
        typed.values[index] = Some(match (&flag.kind, typed.values[index].take()) {
            (Kind::List(_), Some(before)) => format!("{before},{value}"),
            _ => value,
        });
    }
    Ok(Typed::Values(typed))
}

/// What `--help` prints: all, or what the next word names, which is a flag with or without dashes, or `inherited`.
///
/// Errors: there is no such flag.
fn help_about(parser: &mut lexopt::Parser) -> Result<String, String> {
    let width = help::width();
    let topic = match parser.optional_value() {
        Some(value) => Some(value),
        None => parser.try_raw_args().and_then(|mut words| words.next()),
    };
    let topic = topic.map(|topic| text(topic, "--help")).transpose()?.unwrap_or_default();
    let name = topic.trim_start_matches('-').split('=').next().unwrap_or_default();
    match name {
        "" | "help" | "h" => Ok(help::help(width)),
        "inherited" | "help-inherited" => Ok(help::help_inherited(width)),
        name => help::of_flag(name, width),
    }
}

/// What `--generate` prints. Errors: what can be generated.
fn generate(what: &str) -> Result<String, String> {
    match what {
        "man" => Ok(man::page()),
        "bash" => Ok(completion::bash()),
        "zsh" => Ok(completion::zsh()),
        "fish" => Ok(completion::fish()),
        _ => Err(format!(
            "--generate: '{}' is not known; expected one of {}",
            cut(what),
            completion::GENERATED.join(", ")
        )),
    }
}

/// dcgm-exporter takes any name behind one dash too (`-collectors=x`, `-rbmn`), which elsewhere means a bundle of
/// short flags. A value that begins with a dash and a flag's name is taken to be that flag.
fn with_two_dashes(argument: OsString) -> OsString {
    let long_name = argument.to_str().and_then(|text| text.strip_prefix('-')).filter(|rest| {
        let name = rest.split('=').next().unwrap_or_default();
        name.chars().count() > 1
            && (matches!(name, "help" | "help-inherited" | "version" | "generate")
                || flag::all().any(|flag| flag.is_called(name)))
    });
    match long_name {
        Some(rest) => OsString::from(format!("--{rest}")),
        None => argument,
    }
}

fn text(value: OsString, origin: &str) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{origin}: '{}' is not UTF-8", cut(&value.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::own;
    use crate::config::engine::{Address, EngineSelection, usual_places};
    use crate::config::listen::ListenAddress;
    use std::path::PathBuf;
    use std::time::Duration;

    fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, String> {
        let variable = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        match parse(arguments.iter().map(OsString::from), variable)? {
            Command::Run(config) => Ok(*config),
            Command::Print(text) => Err(format!("printed {text}")),
        }
    }

    #[test]
    fn defaults_are_the_peers() {
        let config = run(&[], &[]).unwrap();
        assert_eq!(config.collectors, PathBuf::from("/etc/dcgm-exporter/default-counters.csv"));
        assert_eq!(config.listen, [ListenAddress::parse(":9400").unwrap()]);
        assert_eq!((config.timeouts.read, config.timeouts.write), (Duration::from_secs(10), Duration::from_secs(30)));
        assert_eq!(config.interval, Duration::from_secs(30));
        assert_eq!((config.engine, config.hostname_label), (EngineSelection::Embedded, "hostname"));
        assert_eq!(
            (config.xid_window, config.clock_events_window),
            (Duration::from_secs(300), Duration::from_secs(300))
        );
        assert_eq!(config.min_collect_interval, Duration::from_secs(5));
        assert_eq!((config.bind_unbind_watch, config.bind_unbind_interval), (false, Duration::from_secs(1)));
        assert!(!config.keep_reading_after_xid119);
        assert!(config.exporter_metrics && config.warnings.is_empty() && config.job_map.is_none());
    }

    #[test]
    fn every_spelling_of_a_flag() {
        let here = |name: &str| std::path::absolute(name).unwrap();
        for arguments in [
            &["-f", "x.csv"][..],
            &["-f=x.csv"],
            &["--f", "x.csv"],
            &["--collectors", "x.csv"],
            &["--collectors=x.csv"],
            &["-collectors", "x.csv"],
            &["-collectors=x.csv"],
            &["-f", "y.csv", "-f", "x.csv"],
        ] {
            assert_eq!(run(arguments, &[]).unwrap().collectors, here("x.csv"), "{arguments:?}");
        }
        for arguments in [&["-rbmn"][..], &["--rbmn"], &["--replace-blanks-in-model-name=T"], &["-rbmn=true"]] {
            assert!(run(arguments, &[]).unwrap().replace_blanks_in_model_name, "{arguments:?}");
        }
        assert!(!run(&["-n=false"], &[("DCGM_EXPORTER_NO_HOSTNAME", "true")]).unwrap().no_hostname);
    }

    #[test]
    fn several_addresses() {
        let parse = |text: &str| ListenAddress::parse(text).unwrap();
        let (port, socket) = ("127.0.0.1:9400", "unix:///run/x.sock?mode=0600");
        let both = [parse(port), parse(socket)];
        assert_eq!(run(&["-a", port, "--address", socket], &[]).unwrap().listen, both);
        assert_eq!(run(&[], &[("DCGM_EXPORTER_LISTEN", &format!("{port}, {socket}"))]).unwrap().listen, both);
    }

    #[test]
    fn the_command_line_overrides_the_environment_and_an_empty_variable_is_none() {
        let variable = [("DCGM_EXPORTER_INTERVAL", "1000"), ("DCGM_REMOTE_HOSTENGINE_INFO", "")];
        let config = run(&[], &variable).unwrap();
        assert_eq!((config.interval, config.engine), (Duration::from_secs(1), EngineSelection::Embedded));
        assert_eq!(run(&["-c", "500ms"], &variable).unwrap().interval, Duration::from_millis(500));
    }

    #[test]
    fn an_engine_other_than_the_embedded_only_when_asked_for() {
        use EngineSelection::{Auto, Remote};
        let tcp = |text: &str| Address::Tcp(text.into());
        let unix = |text: &str| Address::Unix(text.into());
        for (text, engine) in [
            ("localhost:5555", Remote(tcp("localhost:5555"))),
            ("unix:///run/x.sock", Remote(unix("/run/x.sock"))),
            ("[::1]:7", Remote(tcp("[::1]:7"))),
            ("auto", Auto(usual_places())),
            ("auto,unix:///run/x.sock,127.0.0.1:7", Auto(vec![unix("/run/x.sock"), tcp("127.0.0.1:7")])),
        ] {
            assert_eq!(run(&["-r", text], &[]).unwrap().engine, engine, "{text}");
        }
        for text in ["auto,", "auto,vsock://3:1", "auto,host:x"] {
            assert!(run(&["-r", text], &[]).unwrap_err().contains("--remote-hostengine-info"), "{text}");
        }
    }

    #[test]
    fn kubernetes_is_refused_only_when_switched_on() {
        for arguments in [&["-k"][..], &["--kubernetes-gpu-id-type", "device-name"], &["-m", "ns:map"]] {
            let error = run(arguments, &[]).unwrap_err();
            assert!(error.contains("bare metal"), "{error}");
        }
        run(&["-k=false", "-m", "none", "--kubernetes-gpu-id-type=uid"], &[]).unwrap();
        assert!(run(&[], &[("KUBERNETES_ENABLE_DRA", "1")]).unwrap_err().contains("KUBERNETES_ENABLE_DRA"));
    }

    #[test]
    fn errors_name_the_flag_and_what_would_be_right() {
        for (arguments, parts) in [
            (&["--colectors", "x"][..], &["--colectors", "--collectors"][..]),
            (&["-c", "0"], &["--collect-interval", "'0'", "24h"]),
            (&["-c", "soon"], &["--collect-interval", "'soon'", "30s"]),
            (&["--log-format", "xml"], &["--log-format", "'xml'", "text", "json"]),
            (&["--dcgm-log-level", "debug"], &["--dcgm-log-level", "'debug'", "DEBUG"]),
            (&["-d", "x"], &["--devices", "'x'", "g"]),
            (&["-a", "9400"], &["--address", "'9400'", ":9400"]),
            (&["-a", ":99999"], &["--address", "':99999'", "65535"]),
            (&["-f"], &["--collectors", "needs a value"]),
            (&["-n=maybe"], &["--no-hostname", "'maybe'", "true"]),
            (&["-r", "host:0x"], &["--remote-hostengine-info", "'host:0x'", "port"]),
            (&["--hostname-label", "host"], &["--hostname-label", "'host'", "Hostname"]),
            (&["-a", ":9400", "-a", "unix://x"], &["--address", "unix:///PATH"]),
            (&["--web-read-timeout", "30000"], &["--web-read-timeout", "'30000'", "10s"]),
        ] {
            let error = run(arguments, &[]).unwrap_err();
            assert!(!error.contains('\n'), "{error}");
            for part in parts {
                assert!(error.contains(part), "{arguments:?}: '{error}' lacks '{part}'");
            }
        }
    }

    /// A switch for each of its values: the configuration is another one, or a warning says why not, or it is refused.
    #[test]
    fn every_switch_has_an_effect_or_says_that_it_has_none() {
        let shown = |config: &Config| format!("{:?}", Config { warnings: Vec::new(), ..config.clone() });
        let usual = run(&[], &[]).unwrap();
        let switches = flag::all().filter(|flag| matches!(flag.kind, Kind::Switch));
        for (flag, value) in switches.flat_map(|flag| [(flag, "true"), (flag, "false")]) {
            if value == flag.default {
                continue;
            }
            if let Ok(config) = run(&[&format!("--{}={value}", flag.long)], &[]) {
                let said = config.warnings.iter().any(|warning| warning.contains(flag.long));
                assert!(said || shown(&config) != shown(&usual), "--{}={value}", flag.long);
                assert!(said || matches!(flag.effect, Effect::Yes), "--{}={value}", flag.long);
            }
        }
        // On in any case, so its other value is the one without effect.
        assert!(run(&["--enable-exporter-metrics"], &[]).unwrap().warnings.is_empty());
        let warnings = run(&["--enable-exporter-metrics=false"], &[]).unwrap().warnings;
        assert!(warnings[0].contains("--disable-exporter-metrics"), "{warnings:?}");
    }

    /// Each key of the configuration file, with a value that is not the default.
    #[test]
    fn every_key_of_the_file_has_an_effect_or_says_that_it_has_none() {
        let shown =
            |config: &Config| format!("{:?}", Config { warnings: Vec::new(), config_file: None, ..config.clone() });
        let collection =
            |more: &str| format!("collections: [{{name: a, every: 5s, metrics: {{include: [X]}}{more}}}]\n");
        for (version, text, silent) in [
            (2, "metrics: {file: /x.csv}\n".to_owned(), true),
            (2, "metrics: {fields: [{name: A, prometheusType: gauge, help: h}]}\n".to_owned(), true),
            (2, "metrics: {enableExporterMetrics: true}\n".to_owned(), true),
            (2, "metrics: {enableExporterMetrics: false}\n".to_owned(), false),
            (2, collection(""), true),
            (2, collection(", sources: {dcgm: {watch: {maxKeepAge: 3s, maxKeepSamples: 4}}}"), false),
            (2, "sources: {dcgm: {watch: {maxKeepAge: 3s}}}\n".to_owned(), false),
            (2, "sources: {dcgm: {watch: {maxKeepSamples: 3}}}\n".to_owned(), false),
            (2, "sources: {dcgm: {detectBindUnbind: {enabled: true}}}\n".to_owned(), true),
            (2, "sources: {dcgm: {detectBindUnbind: {enabled: false}}}\n".to_owned(), true),
            (2, "sources: {dcgm: {detectBindUnbind: {pollInterval: 3s}}}\n".to_owned(), false),
            (2, "server: {maxConcurrentScrapes: 3}\n".to_owned(), false),
            (1, "collection: {interval: 7s}\n".to_owned(), true),
            (1, "collection: {retention: {maxAge: 3s}}\n".to_owned(), false),
            (1, "collection: {retention: {maxSamples: 3}}\n".to_owned(), false),
            (1, "collection: {watchGroups: [{name: a, interval: 5s, fields: [X]}]}\n".to_owned(), true),
        ] {
            let file = File::new("key", &format!("version: {version}\n{text}"));
            let config = run(&["--config-file", file.path()], &[]).unwrap();
            assert_eq!(config.warnings.is_empty(), silent, "{text}: {:?}", config.warnings);
            let is_usual = shown(&config) == shown(&run(&[], &[]).unwrap());
            let has_default = text.contains("Metrics: true") || text.contains("enabled: false");
            assert!(!silent || has_default || !is_usual, "{text}");
        }
    }

    #[test]
    fn what_prints_and_exits_is_typed() {
        for (variable, value) in [("ONCE", "1"), ("CHECK", "1"), ("LIST_FIELDS", "1"), ("CHECK_COUNTERS", "1")] {
            let config = run(&[], &[(&format!("DCGM_EXPORTER_{variable}"), value)]).unwrap();
            assert!(
                config.once.is_none()
                    && config.check.is_none()
                    && config.list_fields.is_none()
                    && !config.check_counters
            );
        }
    }

    #[test]
    fn intervals_of_vendors_guides_start_with_the_shortest() {
        for value in ["33", "3", "99ms"] {
            let config = run(&["-c", value], &[]).unwrap();
            assert_eq!(config.interval, Duration::from_millis(100), "{value}");
            assert!(config.warnings[0].contains("it is 100ms instead"), "{:?}", config.warnings);
        }
    }

    #[test]
    fn windows_have_an_end() {
        for flag in ["--xid-count-window-size", "--clock-events-count-window-size", "--stale-after"] {
            let error = run(&[flag, "300000000000000"], &[]).unwrap_err();
            assert!(error.contains("30days"), "{error}");
            run(&[flag, "30days"], &[]).unwrap();
        }
    }

    #[test]
    fn what_has_no_effect_is_a_warning() {
        let config = run(&["--enable-pprof", "stray"], &[]).unwrap();
        assert!(config.warnings.iter().any(|warning| warning.contains("--enable-pprof")));
        assert!(config.warnings.iter().any(|warning| warning.contains("'stray'")));
    }

    #[test]
    fn a_page_is_not_stale_before_the_next_one_is_due() {
        for (arguments, variables, parts) in [
            (&["--stale-after", "0"][..], &[][..], &["--stale-after: '0'", "--collect-interval, which is 30s"][..]),
            (&["--stale-after=29s"], &[], &["'29s'"]),
            (&["--stale-after=30s"], &[], &["'30s'"]),
            (&["-c", "1m"], &[("DCGM_EXPORTER_STALE_AFTER", "45s")], &["DCGM_EXPORTER_STALE_AFTER", "'45s'", "1m"]),
        ] {
            let error = run(arguments, variables).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let config = run(&["--stale-after=31s"], &[]).unwrap();
        assert_eq!(config.stale_after, Some(Duration::from_secs(31)));
        assert_eq!(run(&["-c", "500ms", "--stale-after", "501"], &[]).unwrap().stale_after.unwrap().as_millis(), 501);
    }

    #[test]
    fn bounds_of_the_smaller_intervals() {
        for flag in ["--min-collect-interval", "--gpu-bind-unbind-poll-interval"] {
            for value in ["0", "99ms", "25h"] {
                let error = run(&[flag, value], &[]).unwrap_err();
                assert!(error.contains(flag) && error.contains("100ms") && error.contains("24h"), "{error}");
            }
            run(&[flag, "100ms"], &[]).unwrap();
        }
        let arguments = ["--enable-gpu-bind-unbind-watch", "--gpu-bind-unbind-poll-interval=2s"];
        let config = run(&arguments, &[("DCGM_EXPORTER_MIN_COLLECT_INTERVAL", "10s")]).unwrap();
        assert_eq!((config.bind_unbind_watch, config.bind_unbind_interval), (true, Duration::from_secs(2)));
        assert_eq!(config.min_collect_interval, Duration::from_secs(10));
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_host_engine_has_its_own_environment() {
        let config = run(&["--keep-reading-after-xid119"], &[]).unwrap();
        assert!(config.keep_reading_after_xid119 && config.warnings.is_empty());
        let config = run(&["--keep-reading-after-xid119", "-r", "localhost"], &[]).unwrap();
        assert!(config.warnings[0].contains("__DCGM_FATAL_XIDS__=-119"), "{:?}", config.warnings);
    }

    /// A configuration file, gone with the test.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("dcgm-exporter-parse-{}-{name}.yaml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            File(path)
        }

        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    const FULL: &str = "version: 2\nmetrics: {file: /of/file.csv}\ncollections:\n  - {name: rest, every: 20s, metrics: {include: \
                        ['*']}}\n  - {name: fast, every: 5s, metrics: {include: [X*]}}\nsources: {dcgm: {watch: {maxKeepAge: 7m, \
                        maxKeepSamples: 3}, detectBindUnbind: {enabled: true, pollInterval: 3s}}}\n";

    /// Each setting of the file against nothing, its variable and its flag.
    #[test]
    fn flags_before_variables_before_the_file_before_defaults() {
        let file = File::new("precedence", FULL);
        /// Flag, variable, the value of each, and what is shown of default, file, variable and flag.
        type Row<'a> = (&'a str, &'a str, &'a str, &'a str, [&'a str; 4], fn(&Config) -> String);
        let table: [Row<'_>; 6] = [
            (
                "-f",
                "DCGM_EXPORTER_COLLECTORS",
                "/of/variable.csv",
                "/of/flag.csv",
                ["/etc/dcgm-exporter/default-counters.csv", "/of/file.csv", "/of/variable.csv", "/of/flag.csv"],
                |config| config.collectors.display().to_string(),
            ),
            ("-c", "DCGM_EXPORTER_INTERVAL", "1000", "2s", ["30s", "20s", "1s", "2s"], |config| {
                format!("{:?}", config.interval)
            }),
            (
                "--watch-max-keep-age",
                "DCGM_EXPORTER_WATCH_MAX_KEEP_AGE",
                "1m",
                "2m",
                ["600s", "420s", "60s", "120s"],
                |config| format!("{:?}", config.retention.age),
            ),
            (
                "--watch-max-keep-samples",
                "DCGM_EXPORTER_WATCH_MAX_KEEP_SAMPLES",
                "1",
                "2",
                ["0", "3", "1", "2"],
                |config| config.retention.samples.to_string(),
            ),
            (
                "--enable-gpu-bind-unbind-watch",
                "DCGM_EXPORTER_ENABLE_GPU_BIND_UNBIND_WATCH",
                "false",
                "true",
                ["false", "true", "false", "true"],
                |config| config.bind_unbind_watch.to_string(),
            ),
            (
                "--gpu-bind-unbind-poll-interval",
                "DCGM_EXPORTER_GPU_BIND_UNBIND_POLL_INTERVAL",
                "1500ms",
                "2s",
                ["1s", "3s", "1.5s", "2s"],
                |config| format!("{:?}", config.bind_unbind_interval),
            ),
        ];
        for (flag, variable, of_variable, of_flag, wanted, shown) in table {
            let with_file = ["--config-file", file.path()];
            let typed = format!("{flag}={of_flag}");
            let with_flag = [with_file[0], with_file[1], &typed];
            let variables = [(variable, of_variable)];
            let found = [
                shown(&run(&[], &[]).unwrap()),
                shown(&run(&with_file, &[]).unwrap()),
                shown(&run(&with_file, &variables).unwrap()),
                shown(&run(&with_flag, &variables).unwrap()),
            ];
            assert_eq!(found, wanted, "{flag}");
            // The file's path may be a variable, too.
            let named = [("DCGM_EXPORTER_CONFIG_FILE", file.path())];
            assert_eq!(shown(&run(&[], &named).unwrap()), wanted[1], "{flag}");
        }
        let config = run(&["--config-file", file.path(), "-c", "1m"], &[]).unwrap();
        assert_eq!((config.collections.len(), config.period()), (1, Duration::from_secs(5)));
        assert_eq!(config.slower_rest(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn intervals_that_do_not_fit_are_named() {
        let text = "version: 1\ncollection: {interval: 12s, watchGroups: [{name: a, interval: 5s, fields: [X]}, {name: b, interval: \
                    1m, fields: [Y]}]}\n";
        let file = File::new("uneven", text);
        let warnings = run(&["--config-file", file.path()], &[]).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("'*': its interval 12s")
                && warnings[0].contains("every 5s; its fields are sampled every 10s")
        );
        assert_eq!(run(&["--config-file", file.path(), "-c", "15s"], &[]).unwrap().warnings, [""; 0]);
    }

    #[test]
    fn a_counters_file_that_is_given_counts_before_rows() {
        let text = "version: 2\nmetrics: {fields: [{name: A, prometheusType: gauge, help: h}]}\n";
        let file = File::new("rows", text);
        let config = run(&["--config-file", file.path()], &[]).unwrap();
        assert_eq!((config.rows.as_ref().map(Vec::len), config.counters_file()), (Some(1), file.0.as_path()));
        let config = run(&["--config-file", file.path(), "-f", "/c.csv"], &[]).unwrap();
        assert_eq!((config.rows.is_none(), config.counters_file()), (true, std::path::Path::new("/c.csv")));
        assert!(
            run(&["--config-file", file.path()], &[("DCGM_EXPORTER_COLLECTORS", "/c.csv")]).unwrap().rows.is_none()
        );
    }

    #[test]
    fn what_the_file_says_is_judged_with_the_flags() {
        let file = File::new("judged", FULL);
        let warnings = run(&["--config-file", file.path()], &[]).unwrap().warnings;
        let place = format!("{}:6:38: watch.maxKeepAge has no effect", file.path());
        assert!(warnings.iter().any(|warning| warning.starts_with(&place)), "{warnings:?}");
        let error = run(&["--config-file", file.path(), "--stale-after=20s"], &[]).unwrap_err();
        assert!(error.contains("--stale-after: '20s'"), "{error}");
        let zero = File::new("zero", "version: 1\ncollection: {retention: {maxAge: 0s}}\n");
        let error = run(&["--config-file", zero.path()], &[]).unwrap_err();
        assert!(error.starts_with(&format!("{}:2:34: collection.retention.maxAge: ", zero.path())), "{error}");
        run(&["--config-file", zero.path(), "--watch-max-keep-samples=2"], &[]).unwrap();
        let wrong = File::new("wrong", "version: 2\nserver: {a: 1}\nmetrics: {b: 2}\n");
        let error = run(&["--config-file", wrong.path()], &[]).unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
        assert!(error.lines().all(|line| line.starts_with(wrong.path())), "{error}");
    }

    #[test]
    fn what_can_be_generated() {
        for what in ["man", "bash", "zsh", "fish"] {
            assert!(generate(what).unwrap().contains("dcgm-exporter"), "{what}");
        }
        assert!(generate("csh").unwrap_err().contains("man, bash, zsh, fish"));
    }

    #[test]
    fn help_of_everything_of_a_flag_and_of_what_is_inherited() {
        let print = |arguments: &[&str]| match parse(arguments.iter().map(OsString::from), |_| None) {
            Ok(Command::Print(text)) => Ok(text),
            Ok(_) => panic!("{arguments:?} starts the exporter"),
            Err(error) => Err(error),
        };
        let whole = print(&["--help"]).unwrap();
        for arguments in [&["-h"][..], &["-help"], &["help"], &["-c", "1s", "--help"]] {
            assert_eq!(print(arguments).unwrap(), whole, "{arguments:?}");
        }
        let of_interval = print(&["--help", "collect-interval"]).unwrap();
        assert!(of_interval.contains("DCGM_EXPORTER_INTERVAL") && of_interval.contains("Example:"), "{of_interval}");
        for topic in ["--collect-interval", "-collect-interval", "-c", "c", "--collect-interval=3s"] {
            assert_eq!(print(&["--help", topic]).unwrap(), of_interval, "{topic}");
        }
        assert_eq!(print(&["--help=c"]).unwrap(), of_interval);
        assert!(print(&["--help", "inherited"]).unwrap().contains("--enable-pprof"));
        assert!(print(&["--help", "pprof"]).unwrap_err().contains("--help lists all"));
    }

    /// What `--help FLAG` and the man page show can be typed.
    #[test]
    fn examples_of_flags_are_understood() {
        for flag in own::GROUPS.iter().flat_map(|group| group.flags).filter(|flag| !flag.example.is_empty()) {
            let words = shlex::split(flag.example).unwrap();
            let is_used = |word: &String| word.split('=').next() == Some(&format!("--{}", flag.long));
            assert!(words.iter().any(is_used), "--{}: {words:?}", flag.long);
            let words = words.iter().map(OsString::from);
            // The only files that are read before a start are configuration files.
            match parse(words, |_| None) {
                Ok(Command::Run(config)) => assert_eq!(config.warnings, Vec::<String>::new(), "--{}", flag.long),
                Ok(_) => panic!("--{} prints", flag.long),
                Err(error) => assert!(flag.long == "config-file" && error.contains("No such file"), "{error}"),
            }
            for choice in flag.choices {
                run(&[&format!("--{}={choice}", flag.long)], &[]).unwrap();
            }
        }
    }
}
