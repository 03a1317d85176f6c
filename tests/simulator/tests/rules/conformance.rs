//! Every field on every kind of entity, against what the real libraries answered. There is no exception.
//!
//! The simulator looks its answers up in the same tables, so this is a test of everything between the table and the
//! caller: groups, watches, modules, schedules, and the structs of C. `zero` and `text` count as a value, because they
//! depend on what was injected beneath the real library.

use serde_json::{Value as Json, json};

use crate::call;
use crate::client::*;

const V4: &str = include_str!("../../answers/4.6.0.csv");
const V3: &str = include_str!("../../answers/3.3.9.csv");

fn mock(version: &str) -> Json {
    let mut node = node();
    node["version"] = json!(version);
    node["recording"] = json!("answers");
    node["switch_module"] = json!("nvsdm");
    node["system"]["gpu_instances"] =
        json!([{ "parent_gpu": 1, "entity_id": 0, "nvml_gpu_instance_id": 7, "profile": "1g.18gb" }]);
    if version == "4.6.0" {
        node["system"]["switches"] = json!([0]);
        node["system"]["links"] = json!([
            { "parent": "SWITCH", "parent_id": 0, "states": [3, 3] }, { "parent": "GPU", "parent_id": 0, "states": [3, 3] },
        ]);
        node["system"]["cpus"] = json!([{ "id": 0, "cores": [0] }]);
        node["system"]["connectx"] = json!([0]);
    }
    node
}

fn entity(kind: &str) -> Entity {
    match kind {
        "gpu" => (GPU, 0),
        "gpu_sliced" => (GPU, 1),
        "instance" => (INSTANCE, 0),
        "compute_instance" => (COMPUTE_INSTANCE, 0),
        "gpu_link" => link(GPU, 0, 0),
        "cpu" => (CPU, 0),
        "core" => (CORE, 0),
        "switch" => (SWITCH, 0),
        "switch_link" => link(SWITCH, 0, 1),
        "connectx" => (CONNECTX, 0),
        other => panic!("no kind is called '{other}'"),
    }
}

fn class(reading: &Reading) -> &'static str {
    let sort = match &reading.datum {
        Datum::Int(number) => number - BLANK,
        Datum::Double(number) => (number - BLANK_DOUBLE) as i64,
        Datum::Text(text) => ["<<<NULL>>>", "<<<NOT_FOUND>>>", "<<<NOT_SUPPORTED>>>"]
            .iter()
            .position(|blank| blank == text)
            .map_or(-1, |position| position as i64),
        Datum::Binary => return "binary",
    };
    match sort {
        0 => "blank",
        1 => "not_found",
        2 => "not_supported",
        _ => "value",
    }
}

/// What the simulator answers when one field is watched alone, as the table has it.
fn ask(client: &Client, entity: Entity, field: u16) -> String {
    let group = client.new_group().unwrap();
    let answer = (|| {
        if client.add(group, entity) != 0 {
            return "no_entity".to_owned();
        }
        let Ok(fields) = client.new_fields(&[field]) else { return "no_field".to_owned() };
        let answer = match client.watch_keeping(group, fields, SECOND, 3600.0, 0) {
            0 => {
                client.step(1);
                client.update();
                match client.latest(group, fields) {
                    Ok(readings) => {
                        let reading = &readings[0];
                        format!("0 {} {} {}", reading.status, reading.kind, class(reading))
                    }
                    Err(code) => format!("0 {code}"),
                }
            }
            code => code.to_string(),
        };
        client.unwatch(group, fields);
        call!(client, dcgmFieldGroupDestroy(usize, usize), client.handle, fields);
        answer
    })();
    call!(client, dcgmGroupDestroy(usize, usize), client.handle, group);
    answer
}

fn walk(test: &str, version: &'static str, table: &'static str) {
    alone(test, mock(version), move |client| {
        let mut client = client.start();
        let (head, rows) = table.split_once('\n').unwrap();
        let (mut asked, mut wrong) = (0, Vec::new());
        for (column, kind) in head.split(',').enumerate().skip(1) {
            for row in rows.lines() {
                let cells: Vec<&str> = row.split(',').collect();
                let field = cells[0].parse().unwrap();
                if cells[column].is_empty() {
                    continue;
                }
                asked += 1;
                let answer = ask(&client, entity(kind), field);
                if answer != cells[column] {
                    wrong.push(format!("{field} on {kind}: {answer}, recorded {}", cells[column]));
                }
            }
            // What a bad pair has ended is not the next kind's fault.
            client.restart();
        }
        assert!(wrong.is_empty(), "{} of {asked} rows:\n{}", wrong.len(), wrong.join("\n"));
        assert!(asked > 4000, "{asked}");
    });
}

#[test]
fn every_row_of_4_6_0() {
    walk("conformance::every_row_of_4_6_0", "4.6.0", V4);
}

#[test]
fn every_row_of_3_3_9() {
    walk("conformance::every_row_of_3_3_9", "3.3.9", V3);
}
