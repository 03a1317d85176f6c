//! Finding and opening libdcgm at run time, and its symbols.
//!
//! A library runs with the rights of this process. One that others could replace is used all the same, because a node's
//! metrics must not end with a mode bit that nobody looked at before; the log and `--check` say so.
//!
//! Nothing here knows groups or fields. A symbol that every use needs is looked up at the start, where its absence
//! ends the start with an error that says which package brings it; the others belong to the calls that want them.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library as Dl, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL};

use super::abi::*;
use super::error::Error;
use super::inflight;
use super::release::Release;
use crate::system::writers::{self, Writable};

/// Sonames tried when no path is given, newest first.
pub const SONAMES: [&str; 2] = ["libdcgm.so.4", "libdcgm.so.3"];

/// The release lines of [`SONAMES`], in their order.
const LINES: [Major; 2] = [Major::V4, Major::V3];

/// What is taken for the release of a library that does not say, by its line.
const OLDEST_V3: Release = Release::new(3, 3, 0);
const NEWEST_V4: Release = Release::new(4, 6, 0);

/// The release line of the loaded library: it decides the layout of the structs that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Major {
    V3,
    V4,
}

impl Major {
    /// The line of a release; `None` for one that this exporter does not know.
    pub fn of(release: Release) -> Option<Major> {
        match release.major {
            3 => Some(Major::V3),
            4 => Some(Major::V4),
            _ => None,
        }
    }
}

/// Why no library could be used.
#[derive(Debug)]
pub enum OpenError {
    /// None of the names could be opened. `tried` holds each name with the loader's reason.
    NotFound { tried: Vec<(String, String)>, by_path: bool },
    /// It opened but lacks a symbol: not a libdcgm, or one that is too old or too new.
    MissingSymbol { library: PathBuf, symbol: &'static str },
    /// It is of another release line than the one asked for.
    OtherLine { library: PathBuf, version: String },
    /// A release this exporter has no layouts for.
    UnsupportedVersion { library: PathBuf, version: String },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::NotFound { tried, by_path } => {
                write!(f, "libdcgm was not found: ")?;
                for (index, (name, reason)) in tried.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}tried {name} ({reason})")?;
                }
                if *by_path {
                    write!(f, ". Check the path given with --libdcgm, or leave it out to use the system's libdcgm.so.4")
                } else {
                    write!(
                        f,
                        ". Install NVIDIA DCGM (package datacenter-gpu-manager-4-core, or datacenter-gpu-manager for \
                         DCGM 3), or give its place with --libdcgm"
                    )
                }
            }
            OpenError::MissingSymbol { library, symbol } => write!(
                f,
                "{} has no symbol {symbol}: it is not a libdcgm of DCGM 3.3 or newer. Install NVIDIA DCGM (package \
                 datacenter-gpu-manager-4-core) or give another library with --libdcgm",
                library.display()
            ),
            OpenError::OtherLine { library, version } => {
                write!(f, "{} is DCGM {version}, of another line than the host engine", library.display())
            }
            OpenError::UnsupportedVersion { library, version } => write!(
                f,
                "{} is DCGM {version}; this exporter knows DCGM 3.3 and 4. Install package datacenter-gpu-manager-4-core \
                 or give another library with --libdcgm",
                library.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

macro_rules! symbols {
    (required { $($name:ident: fn($($arg:ty),*) -> $ret:ty;)* } optional { $($opt:ident: fn($($oarg:ty),*) -> $oret:ty;)* }) => {
        /// The C functions by their own names.
        #[allow(non_snake_case)]
        pub(super) struct Symbols {
            $(pub $name: unsafe extern "C" fn($($arg),*) -> $ret,)*
            $(pub $opt: Option<unsafe extern "C" fn($($oarg),*) -> $oret>,)*
        }

        impl Symbols {
            /// Optional symbols that the library lacks.
            pub fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$opt.is_none() { missing.push(stringify!($opt)); })*
                missing
            }

            fn load(dl: &Dl, path: &Path) -> Result<Symbols, OpenError> {
                Ok(Symbols {
                    // SAFETY: the signatures are those of dcgm_agent.h for every release named in `abi`; the library
                    // is never closed, so the pointers stay valid.
                    $($name: *unsafe { dl.get::<unsafe extern "C" fn($($arg),*) -> $ret>(concat!(stringify!($name), "\0")) }
                        .map_err(|_| OpenError::MissingSymbol { library: path.to_owned(), symbol: stringify!($name) })?,)*
                    // SAFETY: as above.
                    $($opt: unsafe { dl.get::<unsafe extern "C" fn($($oarg),*) -> $oret>(concat!(stringify!($opt), "\0")) }
                        .ok().map(|symbol| *symbol),)*
                })
            }
        }
    };
}

symbols! {
    required {
        dcgmInit: fn() -> c_int;
        dcgmShutdown: fn() -> c_int;
        errorString: fn(c_int) -> *const c_char;
        dcgmStartEmbedded_v2: fn(*mut StartEmbeddedParams) -> c_int;
        dcgmStopEmbedded: fn(Handle) -> c_int;
        dcgmConnect_v2: fn(*const c_char, *mut ConnectParams, *mut Handle) -> c_int;
        dcgmDisconnect: fn(Handle) -> c_int;
        dcgmGetEntityGroupEntities: fn(Handle, c_uint, *mut u32, *mut c_int, c_uint) -> c_int;
        dcgmGetDeviceAttributes: fn(Handle, c_uint, *mut DeviceAttributes) -> c_int;
        dcgmGroupCreate: fn(Handle, c_int, *const c_char, *mut usize) -> c_int;
        dcgmGroupAddEntity: fn(Handle, usize, c_uint, u32) -> c_int;
        dcgmGroupDestroy: fn(Handle, usize) -> c_int;
        dcgmFieldGroupCreate: fn(Handle, c_int, *const u16, *const c_char, *mut usize) -> c_int;
        dcgmFieldGroupDestroy: fn(Handle, usize) -> c_int;
        dcgmWatchFields: fn(Handle, usize, usize, i64, f64, c_int) -> c_int;
        dcgmUnwatchFields: fn(Handle, usize, usize) -> c_int;
        dcgmUpdateAllFields: fn(Handle, c_int) -> c_int;
        dcgmGetLatestValues_v2: fn(Handle, usize, usize, FieldValueCallback, *mut c_void) -> c_int;
        dcgmGetValuesSince_v2: fn(Handle, usize, usize, i64, *mut i64, FieldValueCallback, *mut c_void) -> c_int;
        DcgmFieldsInit: fn() -> c_int;
        DcgmFieldGetById: fn(u16) -> *const FieldMeta;
    }
    optional {
        dcgmVersionInfo: fn(*mut VersionInfo) -> c_int;
        dcgmHostengineVersionInfo: fn(Handle, *mut VersionInfo) -> c_int;
        dcgmGetGpuInstanceHierarchy: fn(Handle, *mut MigHierarchy) -> c_int;
        dcgmEntitiesGetLatestValues: fn(
            Handle, *const GroupEntityPair, c_uint, *const u16, c_uint, c_uint, *mut EntityFieldValue
        ) -> c_int;
        dcgmGetGpuStatus: fn(Handle, c_uint, *mut c_int) -> c_int;
        dcgmGetNvLinkLinkStatus: fn(Handle, *mut c_void) -> c_int;
        dcgmGetNvLinkP2PStatus: fn(Handle, *mut NvLinkP2pStatus) -> c_int;
        dcgmGetCpuHierarchy: fn(Handle, *mut CpuHierarchy) -> c_int;
        dcgmGetCpuHierarchy_v2: fn(Handle, *mut CpuHierarchyV2) -> c_int;
        dcgmProfGetSupportedMetricGroups: fn(Handle, *mut ProfMetricGroups) -> c_int;
        dcgmHealthSet_v2: fn(Handle, *mut HealthSetParams) -> c_int;
        dcgmHealthCheck: fn(Handle, usize, *mut c_void) -> c_int;
    }
}

/// An opened libdcgm. It is never closed: its threads may outlive any moment at which that would be safe.
pub struct Library {
    pub(super) symbols: Symbols,
    path: PathBuf,
    /// Who else could replace it.
    writable: Option<Writable>,
    version: String,
    major: Major,
    /// The library's own table is empty between `dcgmShutdown` and the next `dcgmInit`, and never changes otherwise.
    fields: Box<[(u16, FieldInfo)]>,
    is_initialized: Mutex<bool>,
}

/// Ids of fields are below this. DCGM 4.7 has 1,651.
const FIELD_IDS: u16 = 4096;

/// What the library says of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldInfo {
    /// `i`, `d`, `s`, `b` or `t`.
    pub value_type: u8,
    /// Entity group number of the level at which the field is defined; 0 is global.
    pub entity_level: i32,
}

impl Library {
    /// Opens `path`, or the newest of [`SONAMES`] that the loader finds.
    pub fn open(path: Option<&Path>) -> Result<Library, OpenError> {
        let candidates: Vec<PathBuf> = match path {
            Some(path) => vec![path.to_owned()],
            None => SONAMES.iter().map(PathBuf::from).collect(),
        };
        // Global, because the engine's modules are opened later and resolve symbols against the library.
        Library::first_of(candidates, RTLD_LAZY | RTLD_GLOBAL, path.is_some())
    }

    /// Files of other release lines in this library's directory, such as `libdcgm.so.3` beside `libdcgm.so.4`.
    pub fn others(&self) -> Vec<(Major, PathBuf)> {
        let lines = LINES.into_iter().zip(SONAMES).filter(|(line, _)| *line != self.major);
        lines.map(|(line, name)| (line, self.path.with_file_name(name))).filter(|(_, path)| path.is_file()).collect()
    }

    /// Opens another release line of libdcgm beside this one: the one that the loader finds by its soname, else the one in
    /// this library's directory. It can connect to a host engine, but not start one: an engine's modules would find
    /// this library's symbols.
    ///
    /// Errors: as [`Library::open`]; also if what was found is of another line.
    pub fn for_line(&self, line: Major) -> Result<Library, OpenError> {
        let soname = LINES.into_iter().zip(SONAMES).filter(|(known, _)| *known == line).map(|(_, name)| name.into());
        let beside = self.others().into_iter().filter(|(other, _)| *other == line).map(|(_, path)| path);
        let candidates: Vec<PathBuf> = soname.chain(beside).collect();
        // Local, and with its own symbols first: both libraries define the same names.
        let library = Library::first_of(candidates, RTLD_LAZY | RTLD_LOCAL | libc::RTLD_DEEPBIND, false)?;
        match library.major == line {
            true => Ok(library),
            false => Err(OpenError::OtherLine { library: library.path.clone(), version: library.version.clone() }),
        }
    }

    fn first_of(candidates: Vec<PathBuf>, flags: c_int, by_path: bool) -> Result<Library, OpenError> {
        let mut tried = Vec::new();
        for candidate in candidates {
            // Before it is opened, which runs its code.
            let on_the_way = candidate.components().count() > 1;
            let writable = worse(on_the_way.then(|| replaceable(&candidate)).flatten(), searched());
            // SAFETY: opening runs the library's constructors; libdcgm and what it links against are made for that.
            match unsafe { Dl::open(Some(&candidate), flags) } {
                Ok(dl) => return Library::from_opened(dl, candidate, writable),
                Err(error) => tried.push((candidate.display().to_string(), loader_reason(&error, &candidate))),
            }
        }
        Err(OpenError::NotFound { tried, by_path })
    }

    fn from_opened(dl: Dl, opened_as: PathBuf, writable: Option<Writable>) -> Result<Library, OpenError> {
        let symbols = Symbols::load(&dl, &opened_as)?;
        std::mem::forget(dl);
        let fields = fields_of(&symbols);
        let path = real_path(symbols.dcgmInit as *const c_void).unwrap_or_else(|| opened_as.clone());
        let writable = worse(replaceable(&path), writable);
        let version = symbols.dcgmVersionInfo.and_then(version_of).unwrap_or_default();
        let major = match version.split('.').next().unwrap_or_default() {
            "4" => Major::V4,
            "3" => Major::V3,
            "" if opened_as.to_string_lossy().ends_with(".so.3") => Major::V3,
            "" => Major::V4,
            _ => return Err(OpenError::UnsupportedVersion { library: path, version }),
        };
        Ok(Library { symbols, path, writable, version, major, fields, is_initialized: Mutex::new(false) })
    }

    /// Initializes the library, once per process: it does not count, and the shutdown after one session would end all that
    /// another one has.
    pub(super) fn initialize(&self) -> super::Result<()> {
        let mut is_initialized = self.is_initialized.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_initialized {
            // SAFETY: no arguments; paired by the shutdown when this library is dropped.
            self.call("dcgmInit", || unsafe { (self.symbols.dcgmInit)() })?;
            *is_initialized = true;
        }
        Ok(())
    }

    /// Calls a C function, named where it hangs or fails.
    pub(super) fn call(&self, name: &'static str, function: impl FnOnce() -> c_int) -> super::Result<()> {
        let code = {
            let _waiting = inflight::enter(name);
            function()
        };
        if code == OK { Ok(()) } else { Err(Error::new(name, code, self.error_text(code))) }
    }

    /// The file that was loaded, as the loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which other user or group could replace the library, or have another one found.
    pub fn writable(&self) -> Option<&Writable> {
        self.writable.as_ref()
    }

    /// Such as `4.6.0`; empty if the library does not say.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn major(&self) -> Major {
        self.major
    }

    /// The version as a number; of a library that does not say, the oldest or newest that this exporter knows of its line.
    pub fn release(&self) -> Release {
        let unknown = if self.major == Major::V3 { OLDEST_V3 } else { NEWEST_V4 };
        Release::parse(&self.version).unwrap_or(unknown)
    }

    /// C functions that some metrics need and this library lacks.
    pub fn missing_symbols(&self) -> Vec<&'static str> {
        self.symbols.missing()
    }

    /// What the library knows of a field id; `None` if it has no such field.
    pub fn field(&self, id: u16) -> Option<FieldInfo> {
        let at = self.fields.binary_search_by_key(&id, |(known, _)| *known).ok()?;
        Some(self.fields[at].1)
    }

    /// The library's words for a return code.
    pub(super) fn error_text(&self, code: c_int) -> String {
        // SAFETY: takes any code and returns null or a static C string.
        let text = unsafe { (self.symbols.errorString)(code) };
        if text.is_null() {
            return "unknown error".to_owned();
        }
        // SAFETY: not null, so a terminated static string.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if !*self.is_initialized.get_mut().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        // SAFETY: no session is left, because each of them holds this library.
        if let Err(error) = self.call("dcgmShutdown", || unsafe { (self.symbols.dcgmShutdown)() }) {
            log::debug!("while leaving DCGM: {error}");
        }
    }
}

/// A copy of the library's table of fields.
fn fields_of(symbols: &Symbols) -> Box<[(u16, FieldInfo)]> {
    // SAFETY: no arguments; it only builds the static table that DcgmFieldGetById reads.
    unsafe { (symbols.DcgmFieldsInit)() };
    let info = |id: u16| {
        // SAFETY: takes any id and returns null or a pointer into that table, which nothing frees meanwhile.
        let meta = unsafe { (symbols.DcgmFieldGetById)(id).as_ref() }.filter(|meta| meta.field_id == id)?;
        Some((id, FieldInfo { value_type: meta.field_type as u8, entity_level: meta.entity_level }))
    };
    (1..FIELD_IDS).filter_map(info).collect()
}

/// Who else could replace a library.
fn replaceable(library: &Path) -> Option<Writable> {
    // Of one that cannot be looked at the loader says what is the matter.
    writers::others(library).ok().flatten()
}

/// Who else could put a library where the loader looks first: libdcgm or what it needs.
fn searched() -> Option<Writable> {
    let directories = std::env::var_os("LD_LIBRARY_PATH").filter(|directories| !directories.is_empty())?;
    let directories = directories.as_bytes().split(|byte| b":;".contains(byte));
    // An empty one is the working directory.
    let directories = directories.map(|directory| if directory.is_empty() { b"." } else { directory });
    directories.map(|directory| replaceable(Path::new(OsStr::from_bytes(directory)))).fold(None, worse)
}

/// What everybody may do before what one other user or group may.
fn worse(first: Option<Writable>, second: Option<Writable>) -> Option<Writable> {
    match (first, second) {
        (Some(first), Some(second)) if !first.by_everybody() && second.by_everybody() => Some(second),
        (first, second) => first.or(second),
    }
}

/// The loader repeats the name before its reason; the name is printed already.
fn loader_reason(error: &libloading::Error, candidate: &Path) -> String {
    let text = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    };
    let prefix = format!("{}: ", candidate.display());
    text.trim_matches('"').strip_prefix(&prefix).map(str::to_owned).unwrap_or(text)
}

fn version_of(version_info: unsafe extern "C" fn(*mut VersionInfo) -> c_int) -> Option<String> {
    let mut info = VersionInfo { version: version_word::<VersionInfo>(2), raw: [0; 512] };
    // SAFETY: a versioned struct of the size the word says; the call needs no initialised library.
    (unsafe { version_info(&mut info) } == OK).then(|| version_from(&info)).flatten()
}

/// `key:value;` pairs, of which `version` is wanted.
pub(super) fn version_from(info: &VersionInfo) -> Option<String> {
    let text = text_of(&info.raw);
    text.split(';').find_map(|pair| pair.trim().strip_prefix("version:")).map(|version| version.trim().to_owned())
}

/// A fixed C array up to its NUL, or whole if there is none.
pub(super) fn text_of(array: &[c_char]) -> String {
    let bytes: Vec<u8> = array.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The file a symbol came from, which the soname alone does not tell.
fn real_path(symbol: *const c_void) -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr fills `info` when it returns non-zero and only reads the address.
    let name = unsafe {
        if libc::dladdr(symbol, info.as_mut_ptr()) == 0 {
            return None;
        }
        info.assume_init().dli_fname
    };
    // SAFETY: dladdr's name is null or a terminated string owned by the loader.
    (!name.is_null()).then(|| PathBuf::from(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()))
}

/// A name for the C side; interior NULs cannot occur in names of ours.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
