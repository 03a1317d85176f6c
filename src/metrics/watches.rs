//! Making watches so that one entity or field that the engine refuses costs only itself.
//!
//! libdcgm judges groups whole: one unknown id loses a field group, one unsupported profiling field or one bad GPU
//! fails a watch. So what fails as a whole is tried in halves until the culprit stands alone.

use std::rc::Rc;
use std::time::Duration;

use crate::dcgm::abi::MAX_FIELDS_PER_GROUP;
use crate::dcgm::links::Numbering;
use crate::dcgm::watch::{FieldGroup, Group, Keep};
use crate::dcgm::{EntityId, Error, ErrorKind, Result, Session, Watch};

/// Watches' share of the collect interval: a little shorter, or a due watch is skipped when our timer fires early; not
/// much, or profiling fields no longer average over the time between two pages.
const WATCH_SHARE: f64 = 0.9;

pub struct Watcher<'a> {
    session: &'a Rc<Session>,
    interval: Duration,
    keep: Keep,
    pub watches: Vec<Watch>,
    /// Fields that no entity could be watched for.
    pub refused: Vec<(u16, Error)>,
}

impl<'a> Watcher<'a> {
    /// Watches are sampled once a collection, at `interval`.
    pub fn new(session: &'a Rc<Session>, interval: Duration, keep: Keep) -> Watcher<'a> {
        Watcher { session, interval: interval.mul_f64(WATCH_SHARE), keep, watches: Vec::new(), refused: Vec::new() }
    }

    /// Watches these fields of these entities, as far as the engine lets.
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
            let refused = self.watch_chunk(chunk, fields, numbering)?;
            // Every field refused: it is an entity's fault, so each is tried alone.
            if refused.len() == fields.len() && chunk.len() > 1 {
                let mut shared: Option<Vec<(u16, Error)>> = None;
                for entity in chunk {
                    let refused = self.watch_chunk(std::slice::from_ref(entity), fields, numbering)?;
                    shared = Some(match shared {
                        None => refused,
                        Some(shared) => {
                            shared.into_iter().filter(|(id, _)| refused.iter().any(|(r, _)| r == id)).collect()
                        }
                    });
                }
                self.refused.extend(shared.unwrap_or_default());
            } else {
                self.refused.extend(refused);
            }
        }
        Ok(())
    }

    /// Returns the fields that this group could not be watched for.
    fn watch_chunk(
        &mut self,
        entities: &[EntityId],
        fields: &[u16],
        numbering: Numbering,
    ) -> Result<Vec<(u16, Error)>> {
        let mut lost = 0;
        let group = Group::numbered(self.session, entities, numbering, |entity, error| {
            lost += 1;
            log::warn!("{:?} {} cannot be watched: {error}", entity.group, entity.id);
        })?;
        if lost == entities.len() {
            return Ok(Vec::new());
        }
        let group = Rc::new(group);
        let mut refused = Vec::new();
        for chunk in fields.chunks(MAX_FIELDS_PER_GROUP) {
            self.watch_halves(&group, chunk, &mut refused)?;
        }
        Ok(refused)
    }

    fn watch_halves(&mut self, group: &Rc<Group>, fields: &[u16], refused: &mut Vec<(u16, Error)>) -> Result<()> {
        let made = FieldGroup::new(self.session, fields)
            .and_then(|field_group| Watch::new(group, &Rc::new(field_group), self.interval, self.keep));
        match made {
            Ok(watch) => self.watches.push(watch),
            Err(error) if error.is_connection_lost() || error.kind == ErrorKind::NoRoom => return Err(error),
            Err(error) if fields.len() == 1 => refused.push((fields[0], error)),
            Err(_) => {
                let (left, right) = fields.split_at(fields.len() / 2);
                self.watch_halves(group, left, refused)?;
                self.watch_halves(group, right, refused)?;
            }
        }
        Ok(())
    }
}
