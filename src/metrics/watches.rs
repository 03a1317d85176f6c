//! Making watches so that one entity or field that the engine refuses costs only itself.
//!
//! libdcgm judges groups whole: one unknown id loses a field group, one unsupported profiling field or one bad GPU
//! fails a watch. So what fails as a whole is tried in halves until the culprit is alone.
//!
//! An engine has room for 62 groups and 61 field groups, less those of its other clients. So field groups are shared,
//! and what there is no room for is noted and costs only its own samples.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::schedule::Every;
use crate::dcgm::abi::MAX_FIELDS_PER_GROUP;
use crate::dcgm::links::Numbering;
use crate::dcgm::watch::{FieldGroup, Group, Keep};
use crate::dcgm::{EntityId, Error, ErrorKind, Result, Session, Watch};

/// Goes through all outcomes, each of which may be a call, also after one that failed.
///
/// Errors: a lost connection at once, else the first error when all have had their turn.
pub fn first_error(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut first = Ok(());
    for outcome in outcomes {
        match outcome {
            Err(error) if error.is_connection_lost() => return Err(error),
            outcome => first = first.and(outcome),
        }
    }
    first
}

/// Changes the interval of watches in place.
///
/// Errors: as [`first_error`]; the watch that failed keeps its interval.
pub fn set_interval<'w>(watches: impl IntoIterator<Item = &'w Watch>, every: Every) -> Result<()> {
    first_error(watches.into_iter().map(|watch| watch.set(every.watch_interval(), every.keep())))
}

/// One field group for each list of fields, for as long as a watch uses it.
#[derive(Default)]
pub struct FieldGroups {
    made: HashMap<Vec<u16>, Weak<FieldGroup>>,
}

impl FieldGroups {
    fn of(&mut self, session: &Rc<Session>, fields: &[u16]) -> Result<Rc<FieldGroup>> {
        if let Some(group) = self.made.get(fields).and_then(Weak::upgrade) {
            return Ok(group);
        }
        let group = Rc::new(FieldGroup::new(session, fields)?);
        self.made.insert(fields.to_vec(), Rc::downgrade(&group));
        Ok(group)
    }
}

pub struct Watcher<'a> {
    session: &'a Rc<Session>,
    interval: Duration,
    keep: Keep,
    field_groups: &'a mut FieldGroups,
    pub watches: Vec<Watch>,
    /// Fields that no entity could be watched for.
    pub refused: Vec<(u16, Error)>,
    /// One for each watch that the engine had no room for.
    pub no_room: Vec<Error>,
}

impl<'a> Watcher<'a> {
    pub fn new(session: &'a Rc<Session>, every: Every, keep: Keep, field_groups: &'a mut FieldGroups) -> Watcher<'a> {
        let interval = every.watch_interval();
        Watcher { session, interval, keep, field_groups, watches: Vec::new(), refused: Vec::new(), no_room: Vec::new() }
    }

    /// Watches these fields of these entities, as far as the engine lets.
    ///
    /// Errors: only a lost connection.
    pub fn watch(&mut self, entities: &[EntityId], fields: &[u16]) -> Result<()> {
        for numbering in [Numbering::Index, Numbering::Port] {
            let numbered = fields.iter().filter(|field| self.session.link_numbering(**field) == numbering);
            self.watch_numbered(entities, &numbered.copied().collect::<Vec<u16>>(), numbering)?;
        }
        Ok(())
    }

    fn watch_numbered(&mut self, entities: &[EntityId], fields: &[u16], numbering: Numbering) -> Result<()> {
        if fields.is_empty() {
            return Ok(());
        }
        for chunk in entities.chunks(Group::capacity(self.session)) {
            let refused = self.watch_entities(chunk, fields, numbering)?;
            self.refused.extend(refused);
        }
        Ok(())
    }

    /// Returns the fields that none of these entities could be watched for.
    fn watch_entities(
        &mut self,
        entities: &[EntityId],
        fields: &[u16],
        numbering: Numbering,
    ) -> Result<Vec<(u16, Error)>> {
        let refused = self.watch_group(entities, fields, numbering)?;
        if refused.len() < fields.len() || entities.len() < 2 {
            return Ok(refused);
        }
        // Every field refused: it is an entity's fault.
        let (left, right) = entities.split_at(entities.len() / 2);
        let of_left = self.watch_entities(left, fields, numbering)?;
        let of_right = self.watch_entities(right, fields, numbering)?;
        Ok(of_left.into_iter().filter(|(id, _)| of_right.iter().any(|(other, _)| other == id)).collect())
    }

    /// Returns the fields that this group could not be watched for.
    fn watch_group(
        &mut self,
        entities: &[EntityId],
        fields: &[u16],
        numbering: Numbering,
    ) -> Result<Vec<(u16, Error)>> {
        let mut lost = 0;
        let group = Group::numbered(self.session, entities, numbering, |entity, error| {
            lost += 1;
            log::warn!("{} {} cannot be watched: {error}", entity.group.name(), entity.id);
        });
        let group = match group {
            Ok(group) => Rc::new(group),
            Err(error) if error.kind == ErrorKind::NoRoom => {
                self.no_room.push(error);
                return Ok(Vec::new());
            }
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) => {
                self.refused.extend(fields.iter().map(|field| (*field, error.clone())));
                return Ok(Vec::new());
            }
        };
        if lost == entities.len() {
            return Ok(Vec::new());
        }
        let mut refused = Vec::new();
        for chunk in fields.chunks(MAX_FIELDS_PER_GROUP) {
            self.watch_fields(&group, chunk, &mut refused)?;
        }
        Ok(refused)
    }

    fn watch_fields(&mut self, group: &Rc<Group>, fields: &[u16], refused: &mut Vec<(u16, Error)>) -> Result<()> {
        let made = self
            .field_groups
            .of(self.session, fields)
            .and_then(|field_group| Watch::new(group, &field_group, self.interval, self.keep));
        match made {
            Ok(watch) => self.watches.push(watch),
            Err(error) if error.is_connection_lost() => return Err(error),
            Err(error) if error.kind == ErrorKind::NoRoom => self.no_room.push(error),
            Err(error) if fields.len() == 1 => refused.push((fields[0], error)),
            Err(_) => {
                let (left, right) = fields.split_at(fields.len() / 2);
                self.watch_fields(group, left, refused)?;
                self.watch_fields(group, right, refused)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_fails_leaves_the_others_alone() {
        let error = |code| Error::new("dcgmWatchFields", code, String::new());
        let run = |outcomes: Vec<Result<()>>| {
            let mut done = 0;
            let outcome = first_error(outcomes.into_iter().inspect(|_| done += 1));
            (done, outcome)
        };
        assert_eq!(run(vec![Ok(()), Ok(())]), (2, Ok(())));
        assert_eq!(run(vec![Err(error(-3)), Ok(()), Err(error(-1))]), (3, Err(error(-3))));
        // -21: the connection is lost.
        assert_eq!(run(vec![Err(error(-3)), Err(error(-21)), Ok(())]), (2, Err(error(-21))));
    }
}
