//! The C symbols of libdcgm.
//!
//! What is wrong in a call is answered as libdcgm answers it: -12 for a wrong version word, -10 before `dcgmInit`, -21
//! for a handle that is not open.

mod health;
mod inventory;
mod sessions;
mod watching;
