//! The labels that name entities on the page, and the other names by which a job map knows them.
//!
//! Spelling and order are those of dcgm-exporter, which differ between kinds: `UUID` and `modelName` on GPUs,
//! `gpu_uuid` and `model_name` on their links.

use super::gpus::Gpu;
use crate::dcgm::query::MigInstance;

/// Name and value, in the order of the page.
pub type Labels = Vec<(&'static str, String)>;

/// How entities are labelled.
#[derive(Debug, Clone)]
pub struct Naming {
    pub old_namespace: bool,
    pub hostname_label: &'static str,
    /// Empty leaves the label out.
    pub hostname: String,
    pub replace_blanks_in_model_name: bool,
    pub fake_gpus: bool,
    /// `cpu_serial` on CPUs, as dcgm-exporter has it from 4.8.3 on.
    pub cpu_serials: bool,
}

impl Naming {
    /// Of a GPU, or of one of its instances with the text of its profile. An instance always has its id; the text of its
    /// profile can be missing.
    pub(super) fn gpu(&self, gpu: &Gpu, instance: Option<(&MigInstance, &str)>) -> Labels {
        let model = if self.replace_blanks_in_model_name {
            gpu.model.split_whitespace().collect::<Vec<_>>().join("-")
        } else {
            gpu.model.clone()
        };
        let mut labels = vec![
            ("gpu", gpu.id.to_string()),
            (if self.old_namespace { "uuid" } else { "UUID" }, gpu.uuid.clone()),
            ("pci_bus_id", gpu.pci_bus_id.clone()),
            ("device", format!("nvidia{}", gpu.id)),
            ("modelName", model),
        ];
        if let Some((instance, profile)) = instance {
            if !profile.is_empty() {
                labels.push(("GPU_I_PROFILE", profile.to_owned()));
            }
            labels.push(("GPU_I_ID", instance.nvml_id.to_string()));
        }
        self.finish(labels)
    }

    /// Of a GPU's link. `index` counts from 0; the label counts from 1, as that of dcgm-exporter does.
    pub(super) fn gpu_link(&self, gpu: &Gpu, index: u32) -> Labels {
        let mut labels = vec![("nvlink", (index + 1).to_string()), ("gpu", gpu.id.to_string())];
        let optional = [
            ("gpu_uuid", gpu.uuid.clone()),
            ("pci_bus_id", gpu.pci_bus_id.clone()),
            ("device", format!("nvidia{}", gpu.id)),
            ("model_name", gpu.model.clone()),
        ];
        labels.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        self.finish(labels)
    }

    /// Of a CPU.
    pub(super) fn cpu(&self, id: u32, serial: Option<&str>) -> Labels {
        let mut labels = vec![("cpu", id.to_string())];
        labels.extend(serial.map(|serial| ("cpu_serial", serial.to_owned())));
        self.finish(labels)
    }

    /// Adds what every entity has.
    pub(super) fn finish(&self, mut labels: Labels) -> Labels {
        if !self.hostname.is_empty() {
            labels.push((self.hostname_label, self.hostname.clone()));
        }
        labels
    }
}
