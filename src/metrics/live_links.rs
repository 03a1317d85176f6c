//! Fields of links of GPUs, which are read live.
//!
//! DCGM polls a watch on them twice per update, whatever its interval, keeps every sample of three of them for ever, and
//! asks again and again for what the hardware does not have. A call of the driver takes about a millisecond for each link
//! and field, and two H200 have 36 links. So each field is read at its own interval, and not at all where no link of a
//! GPU has it. Fields that are differences between samples need a watch and have one.
//!
//! A call has the links of one GPU, because one that the driver fails on fails the call.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::number::Number;
use super::plan::{KindFields, Plan};
use super::schedule::Schedule;
use super::table::Table;
use super::unsupported::{Ask, Unsupported};
use crate::dcgm::links::{Numbering, is_read_alone};
use crate::dcgm::{EntityId, Error, Reading, Result, Session, Value};
use crate::inventory::{Inventory, Kind};

#[derive(Default)]
pub struct LiveLinks {
    calls: Vec<Call>,
    /// By GPU.
    unsupported: Unsupported<u32>,
}

/// Fields of links of a GPU that are read together.
struct Call {
    gpu: u32,
    links: Vec<EntityId>,
    fields: Vec<u16>,
    numbering: Numbering,
    /// Of the collection that the fields are in.
    interval: Option<Duration>,
    /// Collections since the last read.
    waited: Option<u32>,
    /// The values of the last read, which are shown until the next.
    values: Vec<(EntityId, u16, i64, Number)>,
    /// There has been a value.
    has_answered: bool,
    /// What came of the last read; `None` before the first.
    last: Option<Result<()>>,
    /// Since the last success.
    has_reported: bool,
}

/// What came of the reads of one collection.
#[derive(Debug, Default)]
pub struct Read {
    /// Calls that fail since this collection.
    pub errors: Vec<Error>,
    /// GPU and field that no link of it has; not asked for any more.
    pub left_out: Vec<(u32, u16)>,
}

impl LiveLinks {
    pub fn new(session: &Session, plan: &Plan, inventory: &Inventory) -> LiveLinks {
        let mut calls: Vec<Call> = Vec::new();
        let fields = plan.fields.iter().filter(|fields| fields.kind == Kind::GpuLink).flat_map(KindFields::live);
        let (alone, together): (Vec<u16>, Vec<u16>) = fields.partition(|field| is_read_alone(*field));
        let links = || inventory.entities.iter().filter(|entity| entity.kind == Kind::GpuLink);
        let gpus: BTreeSet<u32> = links().filter_map(|link| link.gpu).collect();
        for gpu in gpus {
            let first = calls.len();
            for field in together.iter().chain(&alone).copied() {
                let (interval, numbering) = (plan.interval_of(field), session.link_numbering(field));
                let is_same = |call: &&mut Call| (call.interval, call.numbering) == (interval, numbering);
                match calls[first..].iter_mut().find(is_same).filter(|_| !is_read_alone(field)) {
                    Some(call) => call.fields.push(field),
                    None => calls.push(Call {
                        gpu,
                        links: links().filter(|link| link.gpu == Some(gpu)).map(|link| link.id).collect(),
                        fields: vec![field],
                        numbering,
                        interval,
                        waited: None,
                        values: Vec::new(),
                        has_answered: false,
                        last: None,
                        has_reported: false,
                    }),
                }
            }
        }
        LiveLinks { calls, unsupported: Unsupported::default() }
    }

    /// Reads what is due, and puts the latest values into the table. `stamp` is the time in microseconds since 1970;
    /// `answers` says whether a GPU answers other fields.
    ///
    /// Errors: only a lost connection.
    pub fn collect(
        &mut self,
        session: &Session,
        schedule: Schedule,
        stamp: i64,
        table: &mut Table,
        answers: impl Fn(&Table, u32) -> bool,
    ) -> Result<Read> {
        let (now, mut read) = (Instant::now(), Read::default());
        for call in &mut self.calls {
            let waited = call.waited.map(|waited| waited + 1);
            let is_due = waited.is_none_or(|waited| waited >= schedule.of(call.interval).collections);
            call.waited = if is_due { Some(0) } else { waited };
            if is_due {
                call.read(session, &mut self.unsupported, (now, stamp), &mut read)?;
            }
            call.show(table);
        }
        self.judge_failures(now, &mut read, |gpu| answers(table, gpu));
        Ok(read)
    }

    /// A field that is read alone fails because of the GPU, or because the GPU does not have it: that is so if other calls
    /// succeed, or where there are none, if the GPU answers other fields.
    fn judge_failures(&mut self, now: Instant, read: &mut Read, answers: impl Fn(u32) -> bool) {
        for at in 0..self.calls.len() {
            let Some(Err(error)) = self.calls[at].last.clone().filter(|_| self.calls[at].waited == Some(0)) else {
                continue;
            };
            let (gpu, field) = (self.calls[at].gpu, self.calls[at].fields[0]);
            let others = || self.calls.iter().filter(|call| call.gpu == gpu && !is_read_alone(call.fields[0]));
            let gpu_answers = match others().next() {
                Some(_) => others().any(|call| matches!(call.last, Some(Ok(())))),
                None => answers(gpu),
            };
            if is_read_alone(field) && gpu_answers {
                let is_left_out = self.unsupported.note(gpu, field, true, now);
                read.left_out.extend(is_left_out.then_some((gpu, field)));
            } else if !std::mem::replace(&mut self.calls[at].has_reported, true) {
                read.errors.push(error);
            }
        }
    }
}

impl Call {
    /// Reads all fields but those that the GPU lacks.
    ///
    /// Errors: only a lost connection.
    fn read(
        &mut self,
        session: &Session,
        unsupported: &mut Unsupported<u32>,
        (now, stamp): (Instant, i64),
        read: &mut Read,
    ) -> Result<()> {
        self.values.clear();
        self.last = self.last.take().filter(Result::is_ok);
        for (ask, links) in [(Ask::All, &self.links[..]), (Ask::One, &self.links[..1])] {
            let is_asked = |field: &u16| unsupported.ask(self.gpu, *field, now) == ask;
            let fields: Vec<u16> = self.fields.iter().copied().filter(is_asked).collect();
            if fields.is_empty() {
                continue;
            }
            // Those that one link at least does not refuse.
            let mut has: Vec<u16> = Vec::new();
            let values = &mut self.values;
            let answer = session.read_links(links, &fields, self.numbering, &mut |link, reading| {
                if !reading.is_unsupported() && !has.contains(&reading.field) {
                    has.push(reading.field);
                }
                values.push((link, reading.field, reading.timestamp, Number::from(&reading.value)));
            });
            match answer {
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => {
                    // As the engine stores it of a watched field of a GPU that is lost.
                    self.values.extend(links.iter().map(|link| (*link, fields[0], stamp, Number::Blank)));
                    self.last = Some(Err(error));
                    continue;
                }
                Ok(()) => (self.last, self.has_reported) = (Some(Ok(())), false),
            }
            let has_value = self.values.iter().any(|(.., number)| *number != Number::Blank);
            // Nothing at all from a GPU that has answered is no statement about a field.
            let is_refusal = has_value || !self.has_answered;
            self.has_answered |= has_value;
            for field in fields.into_iter().filter(|field| is_refusal || has.contains(field)) {
                if unsupported.note(self.gpu, field, !has.contains(&field), now) {
                    read.left_out.push((self.gpu, field));
                }
            }
        }
        // The order of the table.
        self.values.sort_unstable_by_key(|(link, field, ..)| (*link, *field));
        Ok(())
    }

    fn show(&self, table: &mut Table) {
        for &(link, field, timestamp, number) in &self.values {
            let value = match number {
                Number::Int(number) => Value::Int(number),
                Number::Double(number) => Value::Double(number),
                Number::Blank => Value::Blank,
            };
            table.put(link, &Reading { field, status: 0, timestamp, value });
        }
    }
}
