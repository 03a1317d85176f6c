//! Which GPU or instance something belongs to, whatever id DCGM gives it today.
//!
//! DCGM numbers entities anew in each engine, and gives the id of a destroyed MIG instance to the next one. UUIDs stay.

use std::collections::HashMap;

use crate::inventory::{Entity, Inventory, Kind};

/// What names a GPU or a GPU instance for good.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// UUID of the GPU.
    gpu: String,
    instance: Option<Instance>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Instance {
    /// NVML's id within the GPU.
    id: u32,
    uuid: String,
    profile: String,
}

impl Instance {
    /// Its profile and UUID could not be read.
    fn is_vague(&self) -> bool {
        self.uuid.is_empty() && self.profile.is_empty()
    }
}

impl Identity {
    /// `None` for what is neither a GPU nor an instance. A GPU that is reported whole and one that is reported by its
    /// instances have the same identity.
    pub fn of(entity: &Entity) -> Option<Identity> {
        if !matches!(entity.kind, Kind::Gpu | Kind::WholeGpu) {
            return None;
        }
        let instance = entity.gpu_instance.map(|id| Instance {
            id,
            uuid: entity.uuid.clone(),
            profile: entity.label("GPU_I_PROFILE").unwrap_or_default().to_owned(),
        });
        Some(Identity { gpu: entity.gpu_uuid.clone(), instance })
    }

    /// The same instance, of which one of two looks could not read the profile and the UUID.
    fn may_be(&self, other: &Identity) -> bool {
        match (&self.instance, &other.instance) {
            (Some(this), Some(that)) => {
                self.gpu == other.gpu && this.id == that.id && (this.is_vague() || that.is_vague())
            }
            _ => false,
        }
    }
}

/// Stands for an identity; is never given to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(u32);

/// The identities seen so far and their keys.
#[derive(Debug, Default)]
pub struct Identities {
    keys: HashMap<Identity, Key>,
    next: u32,
}

impl Identities {
    /// The key of an entity, a new one if it was not seen before. `None` as [`Identity::of`].
    pub fn key(&mut self, entity: &Entity) -> Option<Key> {
        let identity = Identity::of(entity)?;
        if let Some(key) = self.keys.get(&identity) {
            return Some(*key);
        }
        let known = self.keys.keys().find(|known| known.may_be(&identity)).cloned();
        let key = match known.and_then(|known| self.keys.remove(&known)) {
            Some(key) => key,
            None => {
                self.next += 1;
                Key(self.next)
            }
        };
        self.keys.insert(identity, key);
        Some(key)
    }

    /// Forgets the instances that are gone from GPUs that are here, and returns their keys: those GPUs were sliced anew. A
    /// GPU that is not here may come back as it was.
    pub fn update(&mut self, inventory: &Inventory) -> Vec<Key> {
        let present: Vec<Identity> = inventory.entities.iter().filter_map(Identity::of).collect();
        for entity in &inventory.entities {
            self.key(entity);
        }
        let is_gone = |identity: &Identity| {
            identity.instance.is_some()
                && present.iter().any(|here| here.gpu == identity.gpu)
                && !present.contains(identity)
        };
        let mut gone = Vec::new();
        self.keys.retain(|identity, key| {
            let is_gone = is_gone(identity);
            if is_gone {
                gone.push(*key);
            }
            !is_gone
        });
        gone
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A key for tests that need no identity behind it.
    pub fn key(number: u32) -> Key {
        Key(number)
    }
}
