//! From bytes to records, with Go's idea of CSV on top of the `csv` crate's.
//!
//! The crate reads quotes leniently and does not know comments after blanks; Go refuses stray quotes, which usually
//! are a slip that would swallow the lines after it. So a first pass looks at each line's quotes, takes out what is no
//! record, and keeps the line numbers; the crate then splits what is left.

/// Records with the line each starts on, and what was wrong with the others.
pub struct Records {
    pub records: Vec<(u64, Vec<String>)>,
    pub errors: Vec<(u64, String)>,
}

pub fn records(bytes: &[u8]) -> Records {
    let (clean, mut errors) = without_non_records(bytes);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .terminator(csv::Terminator::Any(b'\n'))
        .from_reader(clean.as_slice());
    let mut records = Vec::new();
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let line = record.position().map_or(0, csv::Position::line);
                // The position is where the reader stood before it skipped empty lines.
                let line = line + skipped_lines(&clean, record.position());
                records.push((line, record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect()));
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                errors.push((line, format!("not a CSV record: {error}")));
                break;
            }
        }
    }
    Records { records, errors }
}

fn skipped_lines(clean: &[u8], position: Option<&csv::Position>) -> u64 {
    let start = position.map_or(0, csv::Position::byte) as usize;
    clean[start.min(clean.len())..].iter().take_while(|&&byte| byte == b'\n').count() as u64
}

/// The text with comments, blank lines and lines with stray quotes emptied, so that line numbers stay.
fn without_non_records(bytes: &[u8]) -> (Vec<u8>, Vec<(u64, String)>) {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let lines: Vec<&[u8]> =
        bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let (mut clean, mut errors) = (Vec::with_capacity(bytes.len() + 1), Vec::new());
    let mut next = 0;
    while next < lines.len() {
        let first = next;
        let taken = if is_no_record(lines[first]) {
            Ok(0)
        } else {
            record_length(&lines[first..]).map_err(|what| errors.push((first as u64 + 1, what.to_owned())))
        };
        let count = taken.unwrap_or(0);
        for line in &lines[first..first + count] {
            clean.extend_from_slice(line);
            clean.push(b'\n');
        }
        if count == 0 {
            clean.push(b'\n');
        }
        next = first + count.max(1);
    }
    (clean, errors)
}

fn is_no_record(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    text.is_empty() || text[0] == b'#'
}

/// How many lines the record that starts here spans: more than one when a quoted field holds line breaks.
fn record_length(lines: &[&[u8]]) -> Result<usize, &'static str> {
    const STRAY: &str = "a quote inside a field without quotes; put the whole field in quotes, right after the comma, and \
                         double the quotes in it: NAME,gauge,\"say \"\"this\"\"\"";
    const AFTER: &str = "text after a closing quote; only a comma or the end of the line may follow it";
    const OPEN: &str = "a quoted field is never closed; add the closing quote";

    let mut state = State::FieldStart;
    for (index, line) in lines.iter().enumerate() {
        for &byte in *line {
            state = match (state, byte) {
                (State::FieldStart, b'"') => State::Quoted,
                (State::FieldStart | State::Unquoted | State::QuoteInQuoted, b',') => State::FieldStart,
                (State::Unquoted, b'"') => return Err(STRAY),
                (State::FieldStart | State::Unquoted, _) => State::Unquoted,
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::Quoted, _) => State::Quoted,
                (State::QuoteInQuoted, b'"') => State::Quoted,
                (State::QuoteInQuoted, _) => return Err(AFTER),
            };
        }
        if state != State::Quoted {
            return Ok(index + 1);
        }
    }
    Err(OPEN)
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first half of a doubled quote.
    QuoteInQuoted,
}
