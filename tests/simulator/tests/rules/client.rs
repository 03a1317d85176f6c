//! A client of the simulated library, and the process that a test gets for itself.

use std::ffi::{CString, c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use libloading::Library;
use serde_json::{Value as Json, json};

pub type Entity = (u32, u32);

pub const GPU: u32 = 1;
pub const SWITCH: u32 = 3;
pub const INSTANCE: u32 = 4;
pub const COMPUTE_INSTANCE: u32 = 5;
pub const LINK: u32 = 6;
pub const CPU: u32 = 7;
pub const CORE: u32 = 8;
pub const CONNECTX: u32 = 9;

pub const SECOND: i64 = 1_000_000;
pub const BLANK: i64 = 0x7fff_ffff_ffff_fff0;
pub const BLANK_DOUBLE: f64 = 140_737_488_355_328.0;

#[derive(Debug, Clone, PartialEq)]
pub enum Datum {
    Int(i64),
    Double(f64),
    Text(String),
    Binary,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub entity: Entity,
    pub field: u16,
    pub kind: char,
    pub status: i32,
    pub stamp: i64,
    pub datum: Datum,
}

impl Reading {
    pub fn is_blank(&self) -> bool {
        match &self.datum {
            Datum::Int(number) => *number >= BLANK,
            Datum::Double(number) => *number >= BLANK_DOUBLE,
            Datum::Text(text) => text.starts_with("<<<"),
            Datum::Binary => false,
        }
    }

    pub fn int(&self) -> i64 {
        match self.datum {
            Datum::Int(number) => number,
            ref other => panic!("{other:?} is no integer"),
        }
    }
}

/// The simulated libdcgm, built if it is not there yet.
pub fn library_path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let library = target.join("libdcgm_simulator.so");
        if std::env::var_os(DIRECTORY).is_some() {
            return library;
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "dcgm-simulator"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if target.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success(), "the simulator does not build");
        library
    })
}

const DIRECTORY: &str = "RULES_DIRECTORY";

/// Runs `body` in a process of its own with this scenario. `test` is the test's path, `MODULE::NAME`.
pub fn alone(test: &str, scenario: Json, body: impl FnOnce(Client)) {
    alone_with(test, scenario, &[], body)
}

/// The same with more variables in the environment.
pub fn alone_with(test: &str, scenario: Json, environment: &[(&str, &str)], body: impl FnOnce(Client)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let client = Client::new(PathBuf::from(&directory));
        body(client);
        std::fs::write(Path::new(&directory).join("done"), "").unwrap();
        return;
    }
    let directory = std::env::temp_dir().join(format!("rules-{}-{}", std::process::id(), test.replace("::", "-")));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("scenario.json"), scenario.to_string()).unwrap();
    std::fs::write(directory.join("clock"), "0").unwrap();
    library_path();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(DIRECTORY, &directory)
        .env("DCGM_SIMULATOR_SCENARIO", directory.join("scenario.json"))
        .env("DCGM_SIMULATOR_CLOCK", directory.join("clock"))
        .env("DCGM_SIMULATOR_STATS", directory.join("stats.json"))
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let is_done = directory.join("done").exists();
    let _ = std::fs::remove_dir_all(&directory);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    assert!(is_done, "no test is called '{test}'");
}

/// Two GPUs that answer from the recording.
pub fn node() -> Json {
    json!({ "replay": true, "system": { "gpus": [gpu(0), gpu(1)] } })
}

pub fn gpu(id: u32) -> Json {
    json!({ "id": id, "uuid": format!("GPU-{id}"), "model": "simulated", "pci_bus_id": format!("0000:0{id}:00.0") })
}

pub fn link(parent_kind: u32, parent: u32, index: u32) -> Entity {
    (LINK, parent_kind | index << 8 | parent << 24)
}

type Callback = unsafe extern "C" fn(c_uint, u32, *const c_void, c_int, *mut c_void) -> c_int;

/// Calls a function of the library by name: `call!(client, NAME(TYPES), ARGUMENTS)`.
#[macro_export]
macro_rules! call {
    ($client:expr, $name:ident($($kind:ty),*), $($argument:expr),*) => {{
        let function: extern "C" fn($($kind),*) -> std::ffi::c_int = $client.symbol(stringify!($name));
        function($($argument),*)
    }};
}

pub struct Client {
    pub library: Library,
    pub handle: usize,
    pub directory: PathBuf,
    offset: std::cell::Cell<i64>,
}

impl Client {
    fn new(directory: PathBuf) -> Client {
        // SAFETY: the simulator has no initialisers.
        let library = unsafe { Library::new(library_path()).unwrap() };
        let client = Client { library, handle: 0, directory, offset: 0.into() };
        assert_eq!(call!(client, dcgmInit(),), 0);
        client
    }

    /// A function of the library, with the type that the caller knows it has.
    pub fn symbol<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the callers' types are those of the C functions.
        unsafe { *self.library.get::<F>(name.as_bytes()).unwrap() }
    }

    /// Starts an embedded engine in MANUAL mode, with modules denied.
    pub fn start_denying(&mut self, modules: &[u32]) -> i32 {
        self.start_in(2, modules)
    }

    pub fn start(mut self) -> Client {
        assert_eq!(self.start_in(2, &[]), 0);
        self
    }

    pub fn start_automatic(mut self) -> Client {
        assert_eq!(self.start_in(1, &[]), 0);
        self
    }

    fn start_in(&mut self, mode: u32, denied: &[u32]) -> i32 {
        let mut params = [0u32; 20];
        params[0] = 0x0200_0050;
        params[1] = mode;
        params[7] = denied.len() as u32;
        params[10..10 + denied.len()].copy_from_slice(denied);
        let code = call!(self, dcgmStartEmbedded_v2(*mut u32), params.as_mut_ptr());
        self.handle = params[2] as usize | (params[3] as usize) << 32;
        code
    }

    pub fn restart(&mut self) {
        assert_eq!(call!(self, dcgmStopEmbedded(usize), self.handle), 0);
        assert_eq!(self.start_in(2, &[]), 0);
    }

    /// Moves the wall clock by seconds.
    pub fn step(&self, seconds: i64) {
        self.offset.set(self.offset.get() + seconds * 1000);
        self.write("clock", &self.offset.get().to_string());
    }

    /// The engine's clock, in microseconds.
    pub fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_micros() as i64 + self.offset.get() * 1000
    }

    pub fn write(&self, name: &str, content: &str) {
        let aside = self.directory.join("aside");
        std::fs::write(&aside, content).unwrap();
        std::fs::rename(aside, self.directory.join(name)).unwrap();
    }

    pub fn set_scenario(&self, scenario: &Json) {
        self.write("scenario.json", &scenario.to_string());
    }

    pub fn stats(&self) -> Json {
        serde_json::from_slice(&std::fs::read(self.directory.join("stats.json")).unwrap()).unwrap()
    }

    pub fn entities(&self, group: u32, flags: u32) -> Result<Vec<u32>, i32> {
        let (mut ids, mut count) = ([0u32; 1024], 1024);
        let code = call!(
            self,
            dcgmGetEntityGroupEntities(usize, c_uint, *mut u32, *mut c_int, c_uint),
            self.handle,
            group,
            ids.as_mut_ptr(),
            &mut count,
            flags
        );
        if code == 0 { Ok(ids[..count as usize].to_vec()) } else { Err(code) }
    }

    pub fn new_group(&self) -> Result<usize, i32> {
        let (name, mut id) = (CString::new("g").unwrap(), 0);
        let code = call!(
            self,
            dcgmGroupCreate(usize, c_int, *const i8, *mut usize),
            self.handle,
            1,
            name.as_ptr().cast(),
            &mut id
        );
        if code == 0 { Ok(id) } else { Err(code) }
    }

    pub fn add(&self, group: usize, entity: Entity) -> i32 {
        call!(self, dcgmGroupAddEntity(usize, usize, c_uint, u32), self.handle, group, entity.0, entity.1)
    }

    pub fn group(&self, entities: &[Entity]) -> usize {
        let group = self.new_group().unwrap();
        for entity in entities {
            assert_eq!(self.add(group, *entity), 0, "{entity:?}");
        }
        group
    }

    pub fn new_fields(&self, fields: &[u16]) -> Result<usize, i32> {
        let (name, mut id) = (CString::new("f").unwrap(), 0);
        let code = call!(
            self,
            dcgmFieldGroupCreate(usize, c_int, *const u16, *const i8, *mut usize),
            self.handle,
            fields.len() as c_int,
            fields.as_ptr(),
            name.as_ptr().cast(),
            &mut id
        );
        if code == 0 { Ok(id) } else { Err(code) }
    }

    pub fn fields(&self, fields: &[u16]) -> usize {
        self.new_fields(fields).unwrap()
    }

    /// Interval in microseconds, keep age in seconds.
    pub fn watch_keeping(&self, group: usize, fields: usize, interval: i64, keep_age: f64, samples: c_int) -> i32 {
        call!(
            self,
            dcgmWatchFields(usize, usize, usize, i64, f64, c_int),
            self.handle,
            group,
            fields,
            interval,
            keep_age,
            samples
        )
    }

    pub fn watch(&self, group: usize, fields: usize, interval: i64) {
        assert_eq!(self.watch_keeping(group, fields, interval, 3600.0, 0), 0);
    }

    pub fn unwatch(&self, group: usize, fields: usize) -> i32 {
        call!(self, dcgmUnwatchFields(usize, usize, usize), self.handle, group, fields)
    }

    pub fn update(&self) {
        assert_eq!(call!(self, dcgmUpdateAllFields(usize, c_int), self.handle, 1), 0);
    }

    pub fn latest(&self, group: usize, fields: usize) -> Result<Vec<Reading>, i32> {
        let mut readings = Vec::new();
        let code = call!(
            self,
            dcgmGetLatestValues_v2(usize, usize, usize, Callback, *mut c_void),
            self.handle,
            group,
            fields,
            take,
            (&raw mut readings).cast()
        );
        if code == 0 { Ok(readings) } else { Err(code) }
    }

    /// Watches one field of one entity and returns both groups.
    pub fn watch_one(&self, entity: Entity, field: u16, interval: i64) -> (usize, usize) {
        let (group, fields) = (self.group(&[entity]), self.fields(&[field]));
        self.watch(group, fields, interval);
        (group, fields)
    }

    pub fn one(&self, (group, fields): (usize, usize)) -> Reading {
        let mut readings = self.latest(group, fields).unwrap();
        assert_eq!(readings.len(), 1);
        readings.remove(0)
    }

    /// Values since a time, and where to go on.
    pub fn since(&self, (group, fields): (usize, usize), since: i64) -> Result<(i64, Vec<Reading>), i32> {
        let (mut readings, mut next) = (Vec::new(), 0);
        let code = call!(
            self,
            dcgmGetValuesSince_v2(usize, usize, usize, i64, *mut i64, Callback, *mut c_void),
            self.handle,
            group,
            fields,
            since,
            &mut next,
            take,
            (&raw mut readings).cast()
        );
        if code == 0 { Ok((next, readings)) } else { Err(code) }
    }

    /// A live read: each field of each entity, whoever watches it.
    pub fn live(&self, entities: &[Entity], fields: &[u16]) -> Result<Vec<Reading>, i32> {
        const SIZE: usize = 4128;
        let count = entities.len() * fields.len();
        let mut values = vec![0u64; count * SIZE / 8];
        let code = call!(
            self,
            dcgmEntitiesGetLatestValues(usize, *const Entity, c_uint, *const u16, c_uint, c_uint, *mut c_void),
            self.handle,
            entities.as_ptr(),
            entities.len() as c_uint,
            fields.as_ptr(),
            fields.len() as c_uint,
            1,
            values.as_mut_ptr().cast()
        );
        // SAFETY: the library has filled in `count` values of 4,128 bytes.
        let reading = |index: usize| unsafe {
            let at = values.as_ptr().cast::<u8>().add(SIZE * index);
            let kind = at.add(14).cast::<u16>().read_unaligned() as u8 as char;
            Reading {
                entity: at.add(4).cast::<Entity>().read_unaligned(),
                field: at.add(12).cast::<u16>().read_unaligned(),
                kind,
                status: at.add(16).cast::<i32>().read_unaligned(),
                stamp: at.add(24).cast::<i64>().read_unaligned(),
                datum: datum(kind, at.add(32)),
            }
        };
        if code == 0 { Ok((0..count).map(reading).collect()) } else { Err(code) }
    }

    /// Asks until the answer is there, for what the engine does by a clock that cannot be stepped.
    pub fn until<T>(&self, mut ask: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < end, "it did not happen within 30 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

unsafe extern "C" fn take(group: c_uint, id: u32, values: *const c_void, count: c_int, user: *mut c_void) -> c_int {
    // SAFETY: `user` is the list that the caller passed; the library passes `count` values of 4,120 bytes.
    unsafe {
        let readings = &mut *user.cast::<Vec<Reading>>();
        for index in 0..count as usize {
            let at = values.cast::<u8>().add(4120 * index);
            let kind = at.add(6).cast::<u16>().read_unaligned() as u8 as char;
            readings.push(Reading {
                entity: (group, id),
                field: at.add(4).cast::<u16>().read_unaligned(),
                kind,
                status: at.add(8).cast::<i32>().read_unaligned(),
                stamp: at.add(16).cast::<i64>().read_unaligned(),
                datum: datum(kind, at.add(24)),
            });
        }
    }
    0
}

/// SAFETY: a value of this kind begins at `at`.
unsafe fn datum(kind: char, at: *const u8) -> Datum {
    unsafe {
        match kind {
            'i' => Datum::Int(at.cast::<i64>().read_unaligned()),
            'd' => Datum::Double(at.cast::<f64>().read_unaligned()),
            's' => Datum::Text(std::ffi::CStr::from_ptr(at.cast()).to_string_lossy().into_owned()),
            _ => Datum::Binary,
        }
    }
}
