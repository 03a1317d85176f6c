//! From bytes to records, with Go's idea of CSV on top of the `csv` crate's.
//!
//! The crate reads quotes leniently and does not know comments after blanks; Go refuses stray quotes, which usually
//! are a slip that would swallow the lines after it. So a first pass looks at each line's quotes, takes out what is no
//! record, and keeps the line numbers; the crate then splits what is left.

/// Rows that a file may have, wrong ones included: DCGM has 1,100 names of fields.
pub const MOST_ROWS: usize = 2000;

/// Bytes of a row.
const LONGEST_ROW: usize = 16 * 1024;

/// Name, type and help of each row with the line that it starts on, and what was wrong with the others.
pub struct Records {
    pub records: Vec<(u64, Vec<String>)>,
    pub errors: Vec<(u64, String)>,
}

/// Splits a file into its rows.
///
/// Errors: the line that has one row too many.
pub fn records(bytes: &[u8]) -> Result<Records, u64> {
    let mut errors = Vec::new();
    let clean = without_non_records(bytes, &mut errors)?;
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
    Ok(Records { records, errors })
}

fn skipped_lines(clean: &[u8], position: Option<&csv::Position>) -> u64 {
    let start = position.map_or(0, csv::Position::byte) as usize;
    clean[start.min(clean.len())..].iter().take_while(|&&byte| byte == b'\n').count() as u64
}

/// The text with comments, blank lines and lines with stray quotes emptied, so that line numbers stay.
fn without_non_records(bytes: &[u8], errors: &mut Vec<(u64, String)>) -> Result<Vec<u8>, u64> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut lines = bytes.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut clean = Vec::with_capacity(bytes.len() + 1);
    let (mut number, mut rows) = (1, 0);
    while let Some(line) = lines.clone().next() {
        let mut length = 0;
        if !is_no_record(line) {
            rows += 1;
            if rows > MOST_ROWS {
                return Err(number);
            }
            match record_length(lines.clone()) {
                Ok(found) => length = found,
                Err(what) => errors.push((number, what)),
            }
        }
        for line in lines.by_ref().take(length) {
            clean.extend_from_slice(line);
            clean.push(b'\n');
        }
        if length == 0 {
            clean.push(b'\n');
            lines.next();
        }
        number += length.max(1) as u64;
    }
    Ok(clean)
}

fn is_no_record(line: &[u8]) -> bool {
    let text = line.trim_ascii_start();
    text.is_empty() || text[0] == b'#'
}

/// How many lines the record that starts here spans: more than one when a quoted field holds line breaks.
fn record_length<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<usize, String> {
    const STRAY: &str = "a quote inside a field without quotes; put the whole field in quotes, right after the comma, and \
                         double the quotes in it: NAME,gauge,\"say \"\"this\"\"\"";
    const AFTER: &str = "text after a closing quote; only a comma or the end of the line may follow it";
    const OPEN: &str = "a quoted field is never closed; add the closing quote";

    let mut bytes = 0;
    let mut state = State::FieldStart;
    for (index, line) in lines.enumerate() {
        bytes += line.len() + 1;
        if bytes > LONGEST_ROW && state == State::Quoted {
            return Err(OPEN.to_owned());
        } else if bytes > LONGEST_ROW {
            return Err(format!("longer than {LONGEST_ROW} bytes"));
        }
        for &byte in line {
            state = match (state, byte) {
                (State::FieldStart, b'"') => State::Quoted,
                (State::FieldStart | State::Unquoted | State::QuoteInQuoted, b',') => State::FieldStart,
                (State::Unquoted, b'"') => return Err(STRAY.to_owned()),
                (State::FieldStart | State::Unquoted, _) => State::Unquoted,
                (State::Quoted, b'"') => State::QuoteInQuoted,
                (State::Quoted, _) => State::Quoted,
                (State::QuoteInQuoted, b'"') => State::Quoted,
                (State::QuoteInQuoted, _) => return Err(AFTER.to_owned()),
            };
        }
        if state != State::Quoted {
            return Ok(index + 1);
        }
    }
    Err(OPEN.to_owned())
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first half of a doubled quote.
    QuoteInQuoted,
}
