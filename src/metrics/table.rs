//! The latest value of every field of every entity: one dense table, filled in place at every collection.

use std::collections::HashMap;
use std::time::Duration;

use super::number::Number;
use super::plan::{Asked, FIELD_XID, LabelRow, Plan, Scale};
use super::profiling_pause::{PAUSED, ProfilingPause};
use super::sample::FieldValue;
use crate::counters::is_profiling;
use crate::dcgm::{EntityGroup, EntityId, Reading, Value};
use crate::inventory::{Inventory, Kind};

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    number: Number,
    /// DCGM's, in microseconds since 1970.
    timestamp: i64,
}

/// Fields of a kind, and which of its label rows they feed.
struct Columns {
    kind: Kind,
    ids: Vec<u16>,
    /// By column: see [`Plan::interval_of`].
    intervals: Vec<Option<Duration>>,
    /// By column: indices into an entity's label values.
    labels: Vec<Vec<(usize, Scale)>>,
    label_names: Vec<String>,
}

struct Entry {
    /// Index into `columns`.
    columns: usize,
    /// First cell of this entity.
    first: usize,
    labels: Vec<LabelValue>,
    /// Samples of profiling fields count from here on: see [`ProfilingPause`].
    profiling_from: i64,
}

#[derive(Debug, Clone, Default)]
struct LabelValue {
    text: Option<String>,
    seen: bool,
}

pub struct Table {
    columns: Vec<Columns>,
    entries: Vec<Entry>,
    cells: Vec<Cell>,
    by_id: HashMap<EntityId, usize>,
    /// Entity and column of the last reading: libdcgm hands over all values of an entity one after the other, mostly in the
    /// order in which they were asked for.
    last: Option<(EntityId, usize, usize)>,
    /// Entities whose label values are not those of the last time somebody looked.
    relabelled: Vec<bool>,
    /// For the text of a number that is a label.
    scratch: String,
}

impl Table {
    /// A blank table for these entities; its entity indices are the inventory's.
    pub fn new(plan: &Plan, inventory: &Inventory) -> Table {
        let columns: Vec<Columns> = plan.fields.iter().map(|fields| columns(plan, fields.kind, &fields.ids)).collect();
        let (mut entries, mut cells) = (Vec::new(), 0);
        for entity in &inventory.entities {
            let columns_index = columns.iter().position(|columns| columns.kind == entity.kind).unwrap_or(usize::MAX);
            let (width, labels) = columns.get(columns_index).map_or((0, 0), |c| (c.ids.len(), c.label_names.len()));
            entries.push(Entry {
                columns: columns_index,
                first: cells,
                labels: vec![LabelValue::default(); labels],
                profiling_from: i64::MIN,
            });
            cells += width;
        }
        let mut table = Table {
            by_id: inventory.entities.iter().enumerate().map(|(index, entity)| (entity.id, index)).collect(),
            last: None,
            relabelled: vec![true; entries.len()],
            scratch: String::new(),
            columns,
            entries,
            cells: vec![Cell::default(); cells],
        };
        table.pause(&plan.pause, inventory);
        table
    }

    /// Takes in where profiling fields are paused, and takes their values back there.
    pub fn pause(&mut self, pause: &ProfilingPause, inventory: &Inventory) {
        for (index, entity) in inventory.entities.iter().enumerate() {
            let from = entity.gpu.map_or(i64::MIN, |gpu| pause.counts_from(gpu));
            self.entries[index].profiling_from = from;
            let Entry { columns, first, .. } = self.entries[index];
            let ids = self.columns.get(columns).map(|columns| columns.ids.as_slice()).unwrap_or_default();
            for (id, cell) in ids.iter().zip(&mut self.cells[first..]) {
                if is_profiling(*id) && cell.timestamp < from {
                    *cell = Cell::default();
                }
            }
        }
    }

    /// Whether the profiling fields of an entity are paused.
    pub fn is_paused(&self, index: usize) -> bool {
        self.entries[index].profiling_from == PAUSED
    }

    /// GPUs with these fields, of which some are in a collection with this interval.
    #[cfg(test)]
    pub fn of_fields(inventory: &Inventory, rest: &[u16], slow: &[u16], interval: Option<Duration>) -> Table {
        let mut ids: Vec<u16> = rest.iter().chain(slow).copied().collect();
        ids.sort_unstable();
        let fields = super::plan::KindFields { kind: Kind::Gpu, ids };
        let mut plan = Plan::default();
        plan.fields.push(fields);
        let mut table = Table::new(&plan, inventory);
        let Columns { ids, intervals, .. } = &mut table.columns[0];
        for (id, known) in ids.iter().zip(intervals) {
            *known = interval.filter(|_| slow.contains(id));
        }
        table
    }

    /// Forgets all values, so that one that does not come again is not shown again.
    pub fn clear(&mut self) {
        self.cells.fill(Cell::default());
        for label in self.entries.iter_mut().flat_map(|entry| &mut entry.labels) {
            label.seen = false;
        }
    }

    /// From now on this compute instance answers for an entity where that has no value of its own.
    pub fn answers_for(&mut self, part: EntityId, index: usize) {
        self.by_id.insert(part, index);
        self.last = None;
    }

    /// Takes in one reading. Entities and fields that were not asked for are ignored.
    pub fn put(&mut self, entity: EntityId, reading: &Reading<'_>) {
        if let Some((index, column)) = self.place_of(entity, reading.field)
            && (!is_profiling(reading.field) || reading.timestamp >= self.entries[index].profiling_from)
        {
            // An instance may share a cell with its compute instance. In whatever order they are read, its own value counts
            // before the part's, and a blank of neither takes the other's value away.
            let has_value = self.cells[self.entries[index].first + column].number != Number::Blank;
            let brings_none = !matches!(reading.value, Value::Int(_) | Value::Double(_));
            if has_value && (entity.group == EntityGroup::ComputeInstance || brings_none) {
                return;
            }
            self.put_at(index, column, reading);
        }
    }

    /// Entity and column of a reading.
    fn place_of(&mut self, entity: EntityId, field: u16) -> Option<(usize, usize)> {
        let (index, next) = match self.last {
            Some((last, index, column)) if last == entity => (index, column + 1),
            _ => (*self.by_id.get(&entity)?, 0),
        };
        let columns = self.columns.get(self.entries[index].columns)?;
        let column = match columns.ids.get(next) {
            Some(id) if *id == field => next,
            _ => columns.ids.binary_search(&field).ok()?,
        };
        self.last = Some((entity, index, column));
        Some((index, column))
    }

    /// Takes in a value that a source knows, unless the engine's is newer.
    pub fn put_newer(&mut self, value: FieldValue) {
        let FieldValue { entity, field, time, value } = value;
        let known = self.by_id.get(&entity).and_then(|&index| self.cell(index, field));
        if known.is_some_and(|cell| cell.number == Number::Blank || cell.timestamp < time) {
            self.put(entity, &Reading { field, status: 0, timestamp: time, value: Value::Int(value) });
        }
    }

    fn column(&self, index: usize, field: u16) -> Option<usize> {
        self.columns.get(self.entries.get(index)?.columns)?.ids.binary_search(&field).ok()
    }

    fn put_at(&mut self, index: usize, column: usize, reading: &Reading<'_>) {
        let entry = &mut self.entries[index];
        let columns = &self.columns[entry.columns];
        let number = Number::from(&reading.value);
        self.cells[entry.first + column] = Cell { number, timestamp: reading.timestamp };
        for &(label, scale) in &columns.labels[column] {
            let value = &mut entry.labels[label];
            let mut text = std::mem::take(&mut self.scratch);
            text.clear();
            let changed = match (&reading.value, scale.apply(number)) {
                (Value::Text(text), _) => set_label(value, text),
                (_, Number::Int(number)) => set_label(value, itoa::Buffer::new().format(number)),
                (_, number @ Number::Double(_)) => {
                    number.push(&mut text);
                    set_label(value, &text)
                }
                _ => false,
            };
            self.scratch = text;
            self.relabelled[index] |= changed;
        }
    }

    /// Drops label values that did not come with the last collection. To be called once after it.
    pub fn settle_labels(&mut self) {
        for (entry, relabelled) in self.entries.iter_mut().zip(&mut self.relabelled) {
            for label in entry.labels.iter_mut().filter(|label| !label.seen && label.text.is_some()) {
                label.text = None;
                *relabelled = true;
            }
        }
    }

    /// The value of a field, converted.
    pub fn number(&self, entity: usize, asked: Asked) -> Number {
        self.cell(entity, asked.id).map_or(Number::Blank, |cell| asked.scale.apply(cell.number))
    }

    /// All cells of an entity: field, value as read, time stamp.
    pub fn cells(&self, entity: usize) -> impl Iterator<Item = (u16, Number, i64)> {
        let entry = &self.entries[entity];
        let ids = self.columns.get(entry.columns).map(|columns| columns.ids.as_slice()).unwrap_or_default();
        let cells = &self.cells[entry.first..entry.first + ids.len()];
        ids.iter().zip(cells).map(|(id, cell)| (*id, cell.number, cell.timestamp))
    }

    /// By cell of an entity: the interval of the collection that the field is in.
    pub fn intervals(&self, entity: usize) -> &[Option<Duration>] {
        self.columns.get(self.entries[entity].columns).map(|columns| columns.intervals.as_slice()).unwrap_or_default()
    }

    /// The same of one field; `None` also for one that is not asked for.
    pub fn interval(&self, entity: usize, field: u16) -> Option<Duration> {
        let column = self.column(entity, field)?;
        self.intervals(entity)[column]
    }

    /// Takes all values of an entity back.
    pub fn blank(&mut self, entity: usize) {
        let entry = &self.entries[entity];
        let width = self.columns.get(entry.columns).map_or(0, |columns| columns.ids.len());
        self.cells[entry.first..entry.first + width].fill(Cell::default());
    }

    /// Takes one value back.
    pub fn blank_cell(&mut self, entity: usize, field: u16) {
        if let Some(column) = self.column(entity, field) {
            self.cells[self.entries[entity].first + column] = Cell::default();
        }
    }

    /// Takes back an XID of 0 that only says that there has been none: see [`none_so_far`](super::sources::xid::none_so_far).
    pub fn blank_made_up(&mut self, entity: usize) {
        if self.cell(entity, FIELD_XID).is_some_and(|cell| cell.timestamp == 0) {
            self.blank_cell(entity, FIELD_XID);
        }
    }

    /// A number that is another one when an entity has a newer value of one of these fields: the sum of their time stamps.
    /// `None` if they are not read.
    pub fn stamps(&self, fields: &[u16]) -> Option<i64> {
        let entities = 0..self.entries.len();
        let cells = entities.flat_map(|entity| fields.iter().filter_map(move |field| self.cell(entity, *field)));
        cells.map(|cell| cell.timestamp).reduce(i64::wrapping_add)
    }

    fn cell(&self, entity: usize, field: u16) -> Option<&Cell> {
        let column = self.column(entity, field)?;
        self.cells.get(self.entries[entity].first + column)
    }

    /// Values of the label rows of an entity, by label name; blank ones are left out. None of an entity that is not here.
    pub fn labels(&self, entity: usize) -> impl Iterator<Item = (&str, &str)> {
        let entry = self.entries.get(entity);
        let names = entry.and_then(|entry| self.columns.get(entry.columns)).map(|columns| columns.label_names.iter());
        let values = entry.map(|entry| entry.labels.iter());
        let pairs = names.into_iter().flatten().zip(values.into_iter().flatten());
        pairs.filter_map(|(name, value)| Some((name.as_str(), value.text.as_deref()?)))
    }

    /// Whether an entity's label values have changed since this was last asked.
    pub fn take_relabelled(&mut self, entity: usize) -> bool {
        std::mem::take(&mut self.relabelled[entity])
    }
}

fn set_label(value: &mut LabelValue, text: &str) -> bool {
    value.seen = true;
    if value.text.as_deref() == Some(text) {
        return false;
    }
    value.text = Some(text.to_owned());
    true
}

fn columns(plan: &Plan, kind: Kind, ids: &[u16]) -> Columns {
    let of_kind: Vec<&LabelRow> = plan.labels.iter().filter(|row| row.kinds.contains(&kind)).collect();
    let feeds = |id: u16| {
        let fed = of_kind.iter().enumerate().filter(|(_, row)| row.field.id == id);
        fed.map(|(index, row)| (index, row.field.scale)).collect()
    };
    Columns {
        kind,
        ids: ids.to_vec(),
        intervals: ids.iter().map(|id| plan.interval_of(*id)).collect(),
        labels: ids.iter().map(|id| feeds(*id)).collect(),
        label_names: of_kind.iter().map(|row| row.name.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::source::tests::instance;

    /// A group that cannot be read is split, and its halves are read behind the compute instances.
    #[test]
    fn an_instances_own_value_counts_before_its_parts_in_whatever_order_they_are_read() {
        const FIELD: u16 = 252;
        let own = instance(3, 0);
        let part = EntityId::new(EntityGroup::ComputeInstance, 17);
        let inventory = Inventory { entities: vec![own.clone()], ..Inventory::default() };
        let mut table = Table::of_fields(&inventory, &[FIELD], &[], None);
        table.answers_for(part, 0);
        let reading = |value: Option<i64>| {
            let value = value.map_or(Value::Blank, Value::Int);
            Reading { field: FIELD, status: 0, timestamp: 1, value }
        };
        for (of_own, of_part, shown) in [
            (None, Some(7), Number::Int(7)),
            (Some(5), Some(7), Number::Int(5)),
            (Some(5), None, Number::Int(5)),
            (None, None, Number::Blank),
        ] {
            for own_is_first in [true, false] {
                table.clear();
                let mut both = [(own.id, of_own), (part, of_part)];
                if !own_is_first {
                    both.reverse();
                }
                both.into_iter().for_each(|(entity, value)| table.put(entity, &reading(value)));
                let number = table.cell(0, FIELD).unwrap().number;
                assert_eq!(number, shown, "{of_own:?}, {of_part:?}, own first: {own_is_first}");
            }
        }
    }
}
