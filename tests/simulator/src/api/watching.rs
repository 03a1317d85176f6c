//! Groups, field groups, watches, and reading values.

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::codes::*;
use crate::engine::Lines;
use crate::library::{LIBRARY, with, write_stats};
use crate::memory::{put, put_text};
use crate::reading::OfEntity;
use crate::values::Value;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGroupCreate(handle: usize, kind: c_int, name: *const c_char, group: *mut usize) -> c_int {
    with(handle, "dcgmGroupCreate", |engine| {
        if kind != 1 || name.is_null() || group.is_null() {
            return Err(BADPARAM);
        }
        let id = engine.create_group()?;
        unsafe { group.write(id) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmGroupAddEntity(handle: usize, group: usize, entity_group: c_uint, id: u32) -> c_int {
    with(handle, "dcgmGroupAddEntity", |engine| engine.add_entity(group, (entity_group, id)))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmGroupDestroy(handle: usize, group: usize) -> c_int {
    with(handle, "dcgmGroupDestroy", |engine| engine.destroy_group(group))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmFieldGroupCreate(
    handle: usize,
    count: c_int,
    fields: *const u16,
    name: *const c_char,
    id: *mut usize,
) -> c_int {
    with(handle, "dcgmFieldGroupCreate", |engine| {
        if fields.is_null() || name.is_null() || id.is_null() || count < 0 {
            return Err(BADPARAM);
        }
        let fields = unsafe { std::slice::from_raw_parts(fields, count as usize) };
        let made = engine.create_field_group(fields)?;
        unsafe { id.write(made) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmFieldGroupDestroy(handle: usize, id: usize) -> c_int {
    with(handle, "dcgmFieldGroupDestroy", |engine| engine.destroy_field_group(id))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmWatchFields(
    handle: usize,
    group: usize,
    field_group: usize,
    interval: i64,
    keep_age: f64,
    keep_samples: c_int,
) -> c_int {
    with(handle, "dcgmWatchFields", |engine| engine.watch(group, field_group, interval, keep_age, keep_samples))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmUnwatchFields(handle: usize, group: usize, field_group: usize) -> c_int {
    with(handle, "dcgmUnwatchFields", |engine| engine.unwatch(group, field_group))
}

#[unsafe(no_mangle)]
pub extern "C" fn dcgmUpdateAllFields(handle: usize, wait: c_int) -> c_int {
    let code = with(handle, "dcgmUpdateAllFields", |engine| {
        if wait != 0 {
            engine.update();
        }
        Ok(())
    });
    write_stats(&LIBRARY.lock().unwrap());
    code
}

type Callback = unsafe extern "C" fn(c_uint, u32, *const c_void, c_int, *mut c_void) -> c_int;

const VALUE_SIZE: usize = 4120;
/// Values handed over at once; several calls for one entity keep readers honest.
const BATCH: usize = 16;

/// Hands samples to a callback in structs full of rubbish but for what libdcgm fills in.
unsafe fn deliver(answers: &[OfEntity], callback: Callback, user: *mut c_void) {
    let mut buffer = vec![0xaau8; VALUE_SIZE * BATCH];
    for (entity, samples) in answers {
        for batch in samples.chunks(BATCH) {
            for (index, (field, sample)) in batch.iter().enumerate() {
                let base = buffer[VALUE_SIZE * index..].as_mut_ptr().cast::<c_void>();
                unsafe {
                    put(base, 0, 0x0100_1018u32);
                    put(base, 4, *field);
                    put(base, 6, u16::from(sample.kind));
                    put(base, 8, sample.status);
                    put(base, 16, sample.timestamp);
                    put_value(base, 24, &sample.value);
                }
            }
            let stop = unsafe { callback(entity.0, entity.1, buffer.as_ptr().cast(), batch.len() as c_int, user) };
            if stop != 0 {
                return;
            }
        }
    }
}

/// The message that the library allocates for a read; written to, as the library does, so that it is resident.
fn message(bytes: usize) -> Vec<u8> {
    std::hint::black_box(vec![1u8; bytes])
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetLatestValues_v2(
    handle: usize,
    group: usize,
    field_group: usize,
    callback: Option<Callback>,
    user: *mut c_void,
) -> c_int {
    with(handle, "dcgmGetLatestValues_v2", |engine| {
        let callback = callback.ok_or(BADPARAM)?;
        if engine.lines == Lines::NewerLibrary {
            return Err(FUNCTION_NOT_FOUND);
        }
        let _message = message(engine.scenario.message_bytes);
        let answers = engine.latest(group, field_group)?;
        let failure = |entity| engine.failure_among(answers.len(), "latest", Some(entity), None);
        if let Some(code) = answers.iter().find_map(|(entity, _)| failure(*entity)) {
            return Err(code);
        }
        unsafe { deliver(&answers, callback, user) };
        Ok(())
    })
}

/// `dcgmFieldValue_v2`.
const LIVE_VALUE_SIZE: usize = 4128;
const LIVE: c_uint = 1;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmEntitiesGetLatestValues(
    handle: usize,
    entities: *const [u32; 2],
    entity_count: c_uint,
    fields: *const u16,
    field_count: c_uint,
    flags: c_uint,
    values: *mut c_void,
) -> c_int {
    with(handle, "dcgmEntitiesGetLatestValues", |engine| {
        let (entity_count, field_count) = (entity_count as usize, field_count as usize);
        let is_some = !entities.is_null() && !fields.is_null() && !values.is_null();
        if !is_some || !(1..=1024).contains(&entity_count) || !(1..=128).contains(&field_count) {
            return Err(BADPARAM);
        }
        if engine.lines == Lines::NewerLibrary {
            return Err(FUNCTION_NOT_FOUND);
        }
        if flags != LIVE {
            engine.violations.push("dcgmEntitiesGetLatestValues without the live flag is not simulated".to_owned());
            return Err(NOT_SUPPORTED);
        }
        let _message = message(engine.scenario.message_bytes);
        let entities = unsafe { std::slice::from_raw_parts(entities, entity_count) };
        let entities: Vec<Entity> = entities.iter().map(|[group, id]| (*group, *id)).collect();
        let fields = unsafe { std::slice::from_raw_parts(fields, field_count) };
        let failure = |entity| engine.failure_among(entities.len(), "live", Some(entity), None);
        if let Some(code) = entities.iter().find_map(|entity| failure(*entity)) {
            return Err(code);
        }
        for (index, (entity, field, sample)) in engine.live(&entities, fields)?.iter().enumerate() {
            unsafe {
                let base = values.byte_add(LIVE_VALUE_SIZE * index);
                put(base, 0, 0x0200_1020u32);
                put(base, 4, entity.0);
                put(base, 8, entity.1);
                put(base, 12, *field);
                put(base, 14, u16::from(sample.kind));
                put(base, 16, sample.status);
                put(base, 24, sample.timestamp);
                put_value(base, 32, &sample.value);
            }
        }
        Ok(())
    })
}

unsafe fn put_value(base: *mut c_void, offset: usize, value: &Value) {
    unsafe {
        match value {
            Value::Int(number) => put(base, offset, *number),
            Value::Double(number) => put(base, offset, *number),
            Value::Text(text) => put_text(base, offset, 256, text),
            Value::Binary => {}
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn dcgmGetValuesSince_v2(
    handle: usize,
    group: usize,
    field_group: usize,
    since: i64,
    next: *mut i64,
    callback: Option<Callback>,
    user: *mut c_void,
) -> c_int {
    with(handle, "dcgmGetValuesSince_v2", |engine| {
        let callback = callback.ok_or(BADPARAM)?;
        if engine.lines != Lines::Same {
            return Err(VER_MISMATCH);
        }
        let _message = message(engine.scenario.message_bytes);
        let (following, answers) = engine.since(group, field_group, since)?;
        unsafe {
            if !next.is_null() {
                next.write(following);
            }
            deliver(&answers, callback, user);
        }
        Ok(())
    })
}
