//! Fields that are read once, through a watch that ends at once.

use std::rc::Rc;
use std::time::Duration;

use crate::dcgm::watch::{FieldGroup, Group, Keep, latest};
use crate::dcgm::{EntityId, Result, Session, Value, Watch};

/// Shorter than the time between two looks. The engine keeps samples of an entity id after a watch has ended, and an id can
/// pass from one instance to another: with a longer interval the new one would get the sample of the old one.
const INTERVAL: Duration = Duration::from_millis(1);

/// Samples these fields of these entities and hands on what they answer, blanks too.
///
/// It ends the watch of anybody in this session on the same field of the same entity, so it is for entities that nothing
/// watches yet, or fields that nothing else needs.
pub fn read_once(
    session: &Rc<Session>,
    entities: &[EntityId],
    fields: &[u16],
    each: &mut dyn FnMut(EntityId, u16, &Value<'_>),
) -> Result<()> {
    for chunk in entities.chunks(Group::capacity(session)) {
        let group = Rc::new(Group::new(session, chunk, |_, _| {})?);
        let fields = Rc::new(FieldGroup::new(session, fields)?);
        let watch = Watch::new(&group, &fields, INTERVAL, Keep::Latest)?;
        session.update_all_fields()?;
        watch.latest(&mut |entity, reading| each(entity, reading.field, &reading.value))?;
    }
    Ok(())
}

/// The same for one field whose value never changes, such as a GPU's architecture: what the engine has sampled already
/// for anybody is taken, and only entities without a value are watched. Blanks are not handed on.
pub fn read_constant(
    session: &Rc<Session>,
    entities: &[EntityId],
    field: u16,
    each: &mut dyn FnMut(EntityId, &Value<'_>),
) -> Result<()> {
    let mut unknown: Vec<EntityId> = entities.to_vec();
    for chunk in entities.chunks(Group::capacity(session)) {
        let (group, fields) = (Group::new(session, chunk, |_, _| {})?, FieldGroup::new(session, &[field])?);
        let read = latest(&group, &fields, &mut |entity, reading| {
            if !reading.value.is_blank() {
                unknown.retain(|unknown| *unknown != entity);
                each(entity, &reading.value);
            }
        });
        read.or_else(|error| if error.is_connection_lost() { Err(error) } else { Ok(()) })?;
    }
    read_once(session, &unknown, &[field], &mut |entity, _, value| {
        if !value.is_blank() {
            each(entity, value);
        }
    })
}
