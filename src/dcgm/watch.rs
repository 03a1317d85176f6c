//! Groups of entities, groups of fields, and watches on them, each given back when dropped, in libdcgm's order: watch,
//! field group, group.

use std::ffi::{c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::abi::*;
use super::library::{Major, c_string};
use super::links::Numbering;
use super::session::Session;
use super::types::{EntityId, Reading, reading};
use super::{Error, Result};

/// How many samples the engine keeps for a watch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    Latest,
    /// Of counters of profiling also the samples that averages begin at, for as long as so many intervals take.
    Samples(i32),
    /// Everything of this long.
    Window(Duration),
}

/// Entities that are watched together.
pub struct Group {
    session: Rc<Session>,
    pub(super) id: usize,
    /// Those that the engine took.
    entities: Vec<EntityId>,
    numbering: Numbering,
}

impl Group {
    /// The largest group this library makes.
    pub fn capacity(session: &Session) -> usize {
        match session.library.major() {
            Major::V3 => MAX_ENTITIES_PER_GROUP_V3,
            Major::V4 => MAX_ENTITIES_PER_GROUP,
        }
    }

    /// Makes a group. Entities that the engine refuses are left out and handed to `refused`, each with the reason.
    ///
    /// Errors: -24 when the engine has no room for another group, -21 when it is gone.
    pub fn new(session: &Rc<Session>, entities: &[EntityId], refused: impl FnMut(EntityId, Error)) -> Result<Group> {
        Group::numbered(session, entities, Numbering::Index, refused)
    }

    /// The same for fields of this numbering (see [`Session::link_numbering`]). The engine is asked for links of GPUs by
    /// that number; whoever reads a watch on the group gets the entities as they are given here.
    pub fn numbered(
        session: &Rc<Session>,
        entities: &[EntityId],
        numbering: Numbering,
        mut refused: impl FnMut(EntityId, Error),
    ) -> Result<Group> {
        let symbols = &session.library.symbols;
        let name = unique_name();
        let mut id = 0;
        // SAFETY: a terminated name and a place for the id.
        session.call("dcgmGroupCreate", || unsafe {
            (symbols.dcgmGroupCreate)(session.handle, GROUP_EMPTY, name.as_ptr(), &mut id)
        })?;
        let taken = Vec::with_capacity(entities.len());
        let mut group = Group { session: session.clone(), id, entities: taken, numbering };
        for &entity in entities {
            let asked = numbering.asked(entity);
            // SAFETY: no memory of ours is involved.
            let added = session.call("dcgmGroupAddEntity", || unsafe {
                (symbols.dcgmGroupAddEntity)(session.handle, id, asked.group as c_uint, asked.id)
            });
            match added {
                Err(error) if error.is_connection_lost() => return Err(error),
                Err(error) => refused(entity, error),
                Ok(()) => group.entities.push(entity),
            }
        }
        Ok(group)
    }
}

impl Group {
    pub fn session(&self) -> &Rc<Session> {
        &self.session
    }

    pub fn entities(&self) -> &[EntityId] {
        &self.entities
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let session = &self.session;
        // SAFETY: the id is this group's and is not used after this.
        let _ = session.call("dcgmGroupDestroy", || unsafe {
            (session.library.symbols.dcgmGroupDestroy)(session.handle, self.id)
        });
    }
}

/// Fields that are watched together: at most [`MAX_FIELDS_PER_GROUP`].
pub struct FieldGroup {
    session: Rc<Session>,
    id: usize,
    fields: Vec<u16>,
}

impl FieldGroup {
    /// Errors: -1 if any id is unknown to the engine or there are too many, for the whole group.
    pub fn new(session: &Rc<Session>, fields: &[u16]) -> Result<FieldGroup> {
        let name = unique_name();
        let mut id = 0;
        // SAFETY: `fields` holds as many ids as the count says; a terminated name and a place for the id.
        session.call("dcgmFieldGroupCreate", || unsafe {
            let count = fields.len() as c_int;
            let create = session.library.symbols.dcgmFieldGroupCreate;
            create(session.handle, count, fields.as_ptr(), name.as_ptr(), &mut id)
        })?;
        Ok(FieldGroup { session: session.clone(), id, fields: fields.to_vec() })
    }
}

impl FieldGroup {
    pub fn ids(&self) -> &[u16] {
        &self.fields
    }
}

impl Drop for FieldGroup {
    fn drop(&mut self) {
        let session = &self.session;
        // SAFETY: the id is this field group's and is not used after this.
        let _ = session.call("dcgmFieldGroupDestroy", || unsafe {
            (session.library.symbols.dcgmFieldGroupDestroy)(session.handle, self.id)
        });
    }
}

/// Fields of entities that the engine samples until this is dropped.
///
/// The field group is declared before the group, because it is to be destroyed first.
pub struct Watch {
    fields: Rc<FieldGroup>,
    group: Rc<Group>,
    is_replaced: bool,
}

impl Watch {
    /// `interval` is the shortest age at which a field is sampled again. It should be a little shorter than the time
    /// between two calls of [`Session::update_all_fields`], and not much: profiling fields are averages between samples.
    ///
    /// An engine has one watch for each entity and field of a session: of two watches on the same pair the later one sets
    /// the interval, and the first to be dropped ends both.
    ///
    /// Errors: a field that the hardware cannot answer can fail the whole watch (profiling fields do).
    pub fn new(group: &Rc<Group>, fields: &Rc<FieldGroup>, interval: Duration, keep: Keep) -> Result<Watch> {
        watch(group, fields, interval, keep)?;
        Ok(Watch { fields: fields.clone(), group: group.clone(), is_replaced: false })
    }

    /// Drops it without an end to the sampling, because each of its pairs of entity and field has another watch.
    pub fn replaced(mut self) {
        self.is_replaced = true;
    }

    /// Changes the interval and how long samples are kept, in place: no sample is lost, and a profiling average goes on.
    pub fn set(&self, interval: Duration, keep: Keep) -> Result<()> {
        watch(&self.group, &self.fields, interval, keep)
    }

    /// The entities that are watched together.
    pub fn entities(&self) -> &[EntityId] {
        &self.group.entities
    }

    pub fn fields(&self) -> &Rc<FieldGroup> {
        &self.fields
    }

    /// Hands the latest value of every field of every entity to `each`, in one call to the engine.
    pub fn latest(&self, each: &mut dyn FnMut(EntityId, Reading<'_>)) -> Result<()> {
        latest(&self.group, &self.fields, each)
    }

    /// Hands every sample since `since` (microseconds since 1970) to `each` and returns where to go on. When nothing
    /// is new, the engine answers one value per entity with time stamp 0, which is not handed on.
    pub fn since(&self, since: i64, each: &mut dyn FnMut(EntityId, Reading<'_>)) -> Result<i64> {
        let session = &self.group.session;
        let mut sampled = |entity: EntityId, reading: Reading<'_>| {
            if reading.timestamp > 0 {
                each(entity, reading);
            }
        };
        let mut visit = Visit { each: &mut sampled, numbering: self.group.numbering, panicked: false };
        let mut next = since;
        // SAFETY: as in `latest`; `next` is a place for one i64.
        let read = session.call("dcgmGetValuesSince_v2", || unsafe {
            let values = session.library.symbols.dcgmGetValuesSince_v2;
            let user = (&raw mut visit).cast::<c_void>();
            values(session.handle, self.group.id, self.fields.id, since, &mut next, on_values, user)
        });
        visit.finish(read)?;
        Ok(next)
    }
}

/// Hands the latest samples that the engine has to `each`, whoever watches for them; blank where nobody does.
pub fn latest(group: &Group, fields: &FieldGroup, each: &mut dyn FnMut(EntityId, Reading<'_>)) -> Result<()> {
    let session = &group.session;
    let mut visit = Visit { each, numbering: group.numbering, panicked: false };
    // SAFETY: `visit` outlives the call and is only touched by the callback, which runs inside it on this thread.
    let read = session.call("dcgmGetLatestValues_v2", || unsafe {
        let latest = session.library.symbols.dcgmGetLatestValues_v2;
        latest(session.handle, group.id, fields.id, on_values, (&raw mut visit).cast::<c_void>())
    });
    visit.finish(read)
}

/// Makes a watch, or changes the one that there is.
fn watch(group: &Group, fields: &FieldGroup, interval: Duration, keep: Keep) -> Result<()> {
    let session = &group.session;
    let interval = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
    let (keep_age, keep_samples) = match keep {
        Keep::Latest => (0.0, 1),
        Keep::Samples(samples) => (0.0, samples),
        Keep::Window(age) => (age.as_secs_f64(), 0),
    };
    // SAFETY: ids of this session; no memory of ours is involved.
    session.call("dcgmWatchFields", || unsafe {
        let watch = session.library.symbols.dcgmWatchFields;
        watch(session.handle, group.id, fields.id, interval, keep_age, keep_samples)
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_replaced {
            return;
        }
        let session = &self.group.session;
        // SAFETY: ids of this session, still alive.
        let _ = session.call("dcgmUnwatchFields", || unsafe {
            (session.library.symbols.dcgmUnwatchFields)(session.handle, self.group.id, self.fields.id)
        });
    }
}

/// What the callback works on.
struct Visit<'a> {
    each: &'a mut dyn FnMut(EntityId, Reading<'_>),
    numbering: Numbering,
    panicked: bool,
}

impl Visit<'_> {
    fn finish(self, read: Result<()>) -> Result<()> {
        assert!(!self.panicked, "a reader of values panicked");
        read
    }
}

/// The one function libdcgm calls. A panic stops here: it must not unwind into C.
unsafe extern "C" fn on_values(
    group: c_uint,
    id: u32,
    values: *const FieldValue,
    count: c_int,
    user: *mut c_void,
) -> c_int {
    // SAFETY: `user` is the Visit that `latest` or `since` passed in, borrowed by nobody else during the call.
    let visit = unsafe { &mut *user.cast::<Visit<'_>>() };
    let Some(entity) = EntityId::from_c(group, id) else { return 0 };
    let entity = visit.numbering.answered(entity);
    if values.is_null() || visit.panicked {
        return 0;
    }
    let read = catch_unwind(AssertUnwindSafe(|| {
        for index in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: libdcgm passes `count` values that live until the callback returns.
            let value = unsafe { &*values.add(index) };
            (visit.each)(entity, reading(value));
        }
    }));
    visit.panicked = read.is_err();
    0
}

/// Names need not be unique, but are shown by `dcgmi group -l`.
fn unique_name() -> std::ffi::CString {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    c_string(&format!("dcgm-exporter-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}
