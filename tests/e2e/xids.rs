//! The first XID of a GPU, as a real Prometheus sees it.

use serde_json::json;

use super::{Database, INTERVAL, scrape_every_second};
use crate::common::{Exporter, GPU_TEMP, Scratch, exporter, scenario};

/// `increase()` needs a sample before the error: the exporter's own counter has one from the first page on, also without
/// a row for XIDs; the series of a code does not, and a rule on it misses the first error.
#[test]
#[ignore = "needs prometheus: make e2e"]
fn prometheus_sees_the_first_xid_as_an_increase() {
    let scratch = Scratch::new();
    let mut plan = scenario(&[0, 1]);
    let counters = scratch.write("counters.csv", format!("{GPU_TEMP}DCGM_FI_DEV_XID_ERRORS, gauge, x\n"));
    let mut exporter = Exporter::start(
        exporter()
            .env("DCGM_SIMULATOR_SCENARIO", scratch.write("scenario.json", plan.to_string()))
            .args(["-c", INTERVAL, "-f"])
            .arg(counters),
    );
    exporter.page_with("there is a series", |page| page.contains("dcgm_exporter_xid_events_total{gpu=\"1\""));
    let config = scrape_every_second(&scratch, exporter.port);
    let mut database = Database::prometheus(&scratch, &config);
    let series = |database: &Database, query: &str| -> Vec<(String, f64)> {
        let answered = database.query(query);
        let gpu = |labels: &serde_json::Map<_, _>| labels["gpu"].as_str().unwrap_or_default().to_owned();
        let mut series: Vec<(String, f64)> = answered.iter().map(|(labels, number)| (gpu(labels), *number)).collect();
        series.sort_by(|a, b| a.0.cmp(&b.0));
        series
    };
    let none = [("0".to_owned(), 0.0), ("1".to_owned(), 0.0)];
    database.until("a fresh node has both counters at 0, scraped twice", |database| {
        series(database, "dcgm_exporter_xid_events_total") == none
            && series(database, "increase(dcgm_exporter_xid_events_total[5m])") == none
            && series(database, "DCGM_FI_DEV_XID_ERRORS{err_code=\"0\",err_msg=\"No Error\"}") == none
    });
    plan["events"] = json!([{ "entity": "GPU", "id": 1, "field_id": 230, "value": 31, "count": 1, "every_ms": 0 }]);
    scratch.write("scenario.json", plan.to_string());
    database.until("the first XID of GPU 1 is an increase", |database| {
        series(database, "increase(dcgm_exporter_xid_events_total[5m]) > 0").iter().any(|(gpu, _)| gpu == "1")
    });
    let counted = series(&database, "dcgm_exporter_xid_events_total");
    assert_eq!(counted, [("0".to_owned(), 0.0), ("1".to_owned(), 1.0)]);
    assert_eq!(series(&database, "increase(dcgm_exporter_xid_events_total[5m]) > 0").len(), 1, "GPU 0 had none");
    database.until("the code is shown", |database| {
        series(database, "DCGM_FI_DEV_XID_ERRORS{err_code=\"31\"}") == [("1".to_owned(), 31.0)]
    });
}
