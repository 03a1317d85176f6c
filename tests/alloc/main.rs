//! Nothing allocates after the first cycle: a counting allocator around reading, rendering and publishing.
//!
//! The simulated libdcgm is a library of its own with an allocator of its own, so only ours is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcgm_exporter::config::devices::DeviceSelection;
use dcgm_exporter::counters::Counters;
use dcgm_exporter::dcgm::{Library, Session};
use dcgm_exporter::exposition::{Exposition, OwnMetrics};
use dcgm_exporter::inventory::{self, Known, Naming, Scope};
use dcgm_exporter::metrics::exporter::Report;
use dcgm_exporter::metrics::freshness::{Answered, Freshness, Judgement, Look};
use dcgm_exporter::metrics::plan::Plan;
use dcgm_exporter::metrics::{Collector, Memory, Windows, profiling_support, sources};
use dcgm_exporter::publish::{PublishedPage, Publisher};
use dcgm_exporter::system::process::usage;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator; counting touches nothing else.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

/// Hands a cycle to `run`: reading, judging, rendering and publishing, as the watcher does it.
fn with_cycle(run: impl FnOnce(&mut dyn FnMut())) {
    let program = Path::new(env!("CARGO_BIN_EXE_dcgm-exporter"));
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", "dcgm-simulator"]);
    if program.parent().is_some_and(|target| target.ends_with("release")) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success());
    let simulator = program.with_file_name("libdcgm_simulator.so");
    let library = Arc::new(Library::open(Some(&simulator)).unwrap_or_else(|error| panic!("{error}")));
    let counters = Counters::parse(include_bytes!("../../counters/default-counters.csv"), &sources::names()).unwrap();
    let session = Rc::new(Session::embedded(&library, &[]).unwrap());
    let scope = Scope {
        gpus: DeviceSelection::Flex,
        switches: DeviceSelection::Flex,
        cpus: DeviceSelection::Flex,
        kinds: Plan::kinds(&counters, &library),
        minors: false,
        names: Naming {
            old_namespace: false,
            hostname_label: "hostname",
            hostname: "node001".to_owned(),
            replace_blanks_in_model_name: false,
            fake_gpus: false,
            cpu_serials: false,
        },
    };
    let inventory = inventory::discover(&session, &scope, &mut Known::default()).unwrap();
    let profiling = profiling_support(&session, &inventory.gpus, |_, _| {}).unwrap();
    let plan = Plan::new(&counters, &library, profiling);
    let window = Duration::from_secs(300);
    let mut memory = Memory::new(0, Windows { xid: window, clock_events: window });
    let interval = Duration::from_millis(1);
    let mut collector = Collector::new(&session, &plan, &inventory, interval, &mut memory).unwrap();
    let mut exposition = Exposition::new(&plan, &inventory);
    let published = Arc::new(PublishedPage::new(Duration::from_secs(30), None, || None));
    published.want_gzip();
    let mut publisher = Publisher::new(published);
    let (mut answered, mut freshness) = (Answered::default(), Freshness::default());
    let mut judgement = Judgement::default();
    let (mut text, report) = (String::new(), Report::default());
    let look = Look { now: Instant::now(), schedule: interval.into(), failing: false };
    let mut cycle = || {
        let outcome = collector.collect(&inventory, &mut memory, 0).unwrap();
        assert!(outcome.errors.is_empty());
        collector.table.settle_labels();
        freshness.judge(look, &mut answered, &mut collector.table, &inventory, &mut judgement);
        text.clear();
        exposition.render(&mut collector.table, &collector.computed, &mut text);
        exposition.render_up(&judgement.up, &[], &mut text);
        report.put(&mut OwnMetrics::new(&mut text));
        publisher.publish(&mut text, Some(Instant::now()));
    };
    run(&mut cycle);
}

#[test]
fn a_cycle_allocates_nothing() {
    with_cycle(|cycle| {
        // Both buffers of the publisher come to their size.
        for _ in 0..5 {
            cycle();
            std::thread::sleep(Duration::from_millis(2));
        }
        let before = allocations();
        for _ in 0..50 {
            cycle();
        }
        assert_eq!(allocations() - before, 0);
        // The counter does count.
        drop(vec![0u8; 10]);
        assert_eq!(allocations() - before, 1);
    });
}

#[test]
#[ignore = "part of make soak"]
fn a_hundred_thousand_cycles_leave_memory_as_it_was() {
    const CYCLES: u64 = 100_000;
    with_cycle(|cycle| {
        (0..1000).for_each(|_| cycle());
        let before = usage().resident_bytes;
        (0..CYCLES).for_each(|_| cycle());
        let after = usage().resident_bytes;
        println!("{CYCLES} cycles: {} KiB resident before, {} KiB after", before / 1024, after / 1024);
        assert!(after <= before + 256 * 1024);
    });
}
