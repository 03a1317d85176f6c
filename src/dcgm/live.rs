//! Live reads: the driver is asked for values at once. They need no watch, and the engine keeps nothing of them.

use std::ffi::c_uint;

use super::abi::*;
use super::links::{Numbering, is_read_live};
use super::session::Session;
use super::types::{EntityId, Reading, live_reading};
use super::{Error, Result};

impl Session {
    /// Whether the library has live reads.
    ///
    /// Errors: -20 if it has not.
    pub fn has_live_reads(&self) -> Result<()> {
        self.wanted(LIVE_READ, self.library.symbols.dcgmEntitiesGetLatestValues).map(drop)
    }

    /// Reads fields of links of one GPU, all of this numbering, and hands each answer to `each`, in any order. Each pair of
    /// link and field costs a call of the driver.
    ///
    /// Errors: -3 for all of them if the driver fails on the GPU, a link is not there, or a field that
    /// [is read alone](super::links::is_read_alone) fails; -1 for fields that are [not read live](is_read_live): a profiling
    /// field would end the engine.
    pub fn read_links(
        &self,
        links: &[EntityId],
        fields: &[u16],
        numbering: Numbering,
        each: &mut dyn FnMut(EntityId, Reading<'_>),
    ) -> Result<()> {
        let function = self.wanted(LIVE_READ, self.library.symbols.dcgmEntitiesGetLatestValues)?;
        if let Some(field) = fields.iter().find(|field| !is_read_live(**field)) {
            return Err(Error::new(LIVE_READ, BADPARAM, format!("field {field} is not for live reads")));
        }
        let asked = links.iter().map(|link| numbering.asked(*link));
        let asked: Vec<GroupEntityPair> =
            asked.map(|link| GroupEntityPair { group: link.group as c_uint, id: link.id }).collect();
        // On the heap and only for the call: 4,128 bytes a value.
        let values = Box::<[EntityFieldValue]>::new_zeroed_slice(links.len() * fields.len());
        // SAFETY: integers, and a union of integers, doubles and bytes: zeroes are a value of each.
        let mut values = unsafe { values.assume_init() };
        // SAFETY: as many pairs and fields as the counts say, and room for a value of each.
        self.call(LIVE_READ, || unsafe {
            let (entities, ids) = (asked.len() as c_uint, fields.len() as c_uint);
            function(self.handle, asked.as_ptr(), entities, fields.as_ptr(), ids, LIVE_DATA, values.as_mut_ptr())
        })?;
        for value in &values {
            if let Some(link) = EntityId::from_c(value.group, value.id) {
                each(numbering.answered(link), live_reading(value));
            }
        }
        Ok(())
    }
}

const LIVE_READ: &str = "dcgmEntitiesGetLatestValues";
