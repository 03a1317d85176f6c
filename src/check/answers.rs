//! Answers to the questions of `--check`, as a table for people and as JSON for machines.

use std::fmt::Write;
use std::sync::mpsc::Sender;

use crate::system::json::{Json, push_object};
use crate::system::printable::printable;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Ok,
    /// There are metrics, but some are missing, or may stop soon.
    Warn,
    /// There are no metrics, or wrong ones.
    Fail,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub question: &'static str,
    pub status: Status,
    pub found: String,
    /// What to do; empty for ok.
    pub fix: String,
}

/// What the asking thread tells the one that waits for it.
pub enum Told {
    /// It begins to ask this.
    Asks(&'static str),
    Answer(Answer),
}

#[derive(Debug, Default)]
pub struct Answers {
    list: Vec<Answer>,
    tell: Option<Sender<Told>>,
}

impl Answers {
    /// Answers that are also sent on, one by one.
    pub fn telling(tell: Sender<Told>) -> Answers {
        Answers { list: Vec::new(), tell: Some(tell) }
    }

    /// Says what is asked next, in case it never returns.
    pub fn asks(&self, what: &'static str) {
        self.tell(Told::Asks(what));
    }

    fn tell(&self, what: Told) {
        if let Some(tell) = &self.tell {
            // Nobody receives any more once the time is over.
            let _ = tell.send(what);
        }
    }

    pub fn ok(&mut self, question: &'static str, found: impl Into<String>) {
        self.put(Answer { question, status: Status::Ok, found: found.into(), fix: String::new() });
    }

    pub fn warn(&mut self, question: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.put(Answer { question, status: Status::Warn, found: found.into(), fix: fix.into() });
    }

    pub fn fail(&mut self, question: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        self.put(Answer { question, status: Status::Fail, found: found.into(), fix: fix.into() });
    }

    pub fn put(&mut self, answer: Answer) {
        self.tell(Told::Answer(answer.clone()));
        self.list.push(answer);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Answer> {
        self.list.iter()
    }

    /// The worst of all, which is the exit status: 0, 1 or 2.
    pub fn worst(&self) -> Status {
        self.list.iter().map(|answer| answer.status).max().unwrap_or(Status::Ok)
    }

    /// One line per answer, and below it the fix.
    pub fn table(&self) -> String {
        let width = self.list.iter().map(|answer| answer.question.len()).max().unwrap_or(0);
        let mut table = String::new();
        for Answer { question, status, found, fix } in &self.list {
            let _ = writeln!(table, "{:<4}  {question:<width$}  {}", status.name(), one_line(found));
            if !fix.is_empty() {
                let _ = writeln!(table, "      {:width$}  -> {}", "", one_line(fix));
            }
        }
        let count = |status| self.list.iter().filter(|answer| answer.status == status).count();
        let (ok, warn, fail) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
        let _ = writeln!(table, "\n{ok} ok, {warn} warn, {fail} fail");
        table
    }

    /// `{"status": ..., "answers": [{"question", "status", "found", "fix"}, ...]}` and a newline.
    pub fn json(&self) -> String {
        let mut json = format!("{{\"status\":{},\"answers\":[", Json(self.worst().name()));
        for (index, Answer { question, status, found, fix }) in self.list.iter().enumerate() {
            json.push_str(if index == 0 { "" } else { "," });
            push_object(
                &mut json,
                [("question", *question), ("status", status.name()), ("found", found), ("fix", fix)],
            );
        }
        json.push_str("]}\n");
        json
    }
}

/// Text of files and other programs may have line breaks, and escape sequences for the terminal; a row of the table has
/// neither.
fn one_line(text: &str) -> String {
    let parts = text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty());
    parts.map(printable).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_of_strangers_stay_text() {
        let hostile = "running\x1b[2J\x1b]0;pwned\x07\u{9b}31m \u{202e}\r\nok    port";
        let mut answers = Answers::default();
        answers.fail("port", hostile, hostile);
        let shown = "running\\x1b[2J\\x1b]0;pwned\\x07\\x9b31m \\u{202e}; ok    port";
        let table = answers.table();
        assert_eq!(table, format!("fail  port  {shown}\n            -> {shown}\n\n0 ok, 0 warn, 1 fail\n"));
        let json = answers.json();
        assert!(!json.trim_end().contains(crate::system::printable::acts_on_terminal), "{json}");
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["answers"][0]["found"], hostile);
    }

    #[test]
    fn a_table_and_json_of_the_same() {
        let mut answers = Answers::default();
        assert_eq!(answers.worst(), Status::Ok);
        answers.ok("port", "9400 is free");
        answers.warn("job map", "a \"b\"\nc", "do x");
        assert_eq!(answers.worst(), Status::Warn);
        let table =
            "ok    port     9400 is free\nwarn  job map  a \"b\"; c\n               -> do x\n\n1 ok, 1 warn, 0 fail\n";
        assert_eq!(answers.table(), table);
        let json: serde_json::Value = serde_json::from_str(&answers.json()).unwrap();
        assert_eq!(json["status"], "warn");
        assert_eq!(json["answers"][1]["found"], "a \"b\"\nc");
    }
}
