//! The page for people: what is on it in each form, what is not, and that it costs nothing while nobody asks.

use serde_json::{Value, json};

use crate::common::*;

const COUNTERS: &str = "DCGM_FI_DEV_GPU_TEMP, gauge, t\nDCGM_FI_DEV_SLOWDOWN_TEMP, gauge, t\n\
    DCGM_FI_DEV_GPU_UTIL, gauge, u\nDCGM_FI_DEV_FB_USED, gauge, m\nDCGM_FI_DEV_FB_FREE, gauge, m\n\
    DCGM_FI_DEV_POWER_USAGE, gauge, p\nDCGM_FI_DEV_XID_ERRORS, gauge, x\nDCGM_FI_DEV_CLOCKS_EVENT_REASONS, gauge, c\n\
    DCGM_FI_DEV_ROW_REMAP_FAILURE, gauge, r\nDCGM_FI_DEV_ENCODE_NOTHING, gauge, n\n";

/// Names as an attacker would choose them.
const JOB: &str = "17";
const USER: &str = "<script>alert(1)</script>&'\"\u{1b}[2J";

fn scenario_with_values(gpus: &[u32]) -> Value {
    let mut plan = scenario(gpus);
    let int = |value: i64| json!({ "type": "int64", "value": value.to_string() });
    for (index, of_gpu) in plan["latest_values"].as_array_mut().unwrap().iter_mut().enumerate() {
        let fields = of_gpu["fields"].as_object_mut().unwrap();
        for (field, value) in
            [("158", 87), ("203", 93), ("252", 61_440), ("251", 81_920), ("230", 0), ("112", 0), ("395", 0)]
        {
            fields.insert(field.to_owned(), int(value));
        }
        fields.insert("155".to_owned(), json!({ "type": "double", "value": "512.4" }));
        if index == 1 {
            fields.insert("150".to_owned(), int(91));
            fields.insert("230".to_owned(), int(79));
            fields.insert("112".to_owned(), int(0x40));
        }
    }
    plan
}

struct Node {
    scratch: Scratch,
    exporter: Exporter,
}

fn start(arguments: &[&str]) -> Node {
    let scratch = Scratch::new();
    let counters = scratch.write("counters.csv", COUNTERS);
    let plan = scratch.write("scenario.json", scenario_with_values(&[0, 1]).to_string());
    scratch.write("jobs/0", format!("{JOB}\n"));
    scratch.write("jobs/job.17", format!("user={USER}\n"));
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).args(["-c", "1s", "-f"]).arg(counters);
    command.arg("--hpc-job-mapping-dir").arg(scratch.path("jobs")).args(arguments);
    let mut exporter = Exporter::start(&mut command);
    exporter.page();
    Node { scratch, exporter }
}

fn json_of(exporter: &Exporter) -> Value {
    let response = exporter.get("/status.json");
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.body))
}

fn ask(exporter: &Exporter, method: &str, path: &str, lines: &str) -> Response {
    request(exporter.port, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n")).unwrap()
}

#[test]
fn the_first_answer_is_complete_and_all_forms_say_the_same() {
    let node = start(&[]);
    let json = json_of(&node.exporter);
    assert_eq!((json["state"].as_str(), json["is_well"].as_bool()), (Some("running"), Some(true)), "{json}");
    assert!(json["age_seconds"].as_f64().is_some_and(|age| age < PATIENCE.as_secs_f64()), "{json}");
    assert_eq!(json["interval_seconds"], 1.0);
    let (first, second) = (&json["gpus"][0], &json["gpus"][1]);
    assert_eq!((&first["name"], &first["model"]), (&json!("GPU 0"), &json!("NVIDIA H200")));
    assert_eq!((&first["utilisation_percent"], &first["temperature_celsius"]), (&json!(93), &json!(30)));
    assert_eq!((&first["memory_used_mib"], &first["memory_total_mib"]), (&json!(61_440), &json!(143_360)));
    assert_eq!((&first["power_watts"], &first["power_limit_watts"]), (&json!(512.4), &Value::Null), "not 0");
    assert_eq!((&first["xid"], &first["throttling"]), (&json!(0), &json!([])));
    assert_eq!(first["jobs"], json!([{ "id": JOB, "user": USER }]), "a parser reads it as it was");
    assert_eq!((&second["xid"], &second["throttling"]), (&json!(79), &json!(["hardware thermal"])));
    assert_eq!(second["jobs"], json!([]));
    let hints = json["hints"].to_string();
    assert!(hints.contains("DCGM_FI_DEV_POWER_MGMT_LIMIT") && !hints.contains("DCGM_FI_DEV_GPU_UTIL"), "{hints}");
    let problems: Vec<(String, String)> = json["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| (problem["what"].as_str().unwrap().to_owned(), problem["fix"].as_str().unwrap().to_owned()))
        .collect();
    let fix_of = |what: &str| {
        &problems.iter().find(|(known, _)| known.starts_with(what)).unwrap_or_else(|| panic!("{problems:?}")).1
    };
    assert!(fix_of("GPU 1: XID 79, ").contains("reboot"), "{problems:?}");
    assert!(fix_of("GPU 1: too hot").contains("air flow"), "{problems:?}");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(json["skipped"].to_string().contains("DCGM_FI_DEV_ENCODE_NOTHING"), "{}", json["skipped"]);

    let html = node.exporter.get("/").body;
    for part in [
        "93",
        "60.0",
        " / 140.0",
        "512",
        "91",
        " / 87",
        "hardware thermal",
        "XID 79",
        "DCGM_FI_DEV_POWER_MGMT_LIMIT",
        "not in the counters file",
        "libdcgm",
        "air flow",
        "<polyline",
        "<time datetime=\"",
    ] {
        assert!(html.contains(part), "{part} is not in {html}");
    }
    let text = node.exporter.get("/?text");
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    for part in [
        "data: ",
        "state: running",
        "GPU 0  93      60.0 / 140.0  512      30 / 87",
        "! GPU 1: XID 79",
        "\nSKIPPED COUNTERS\n",
    ] {
        assert!(text.body.contains(part), "{part} is not in {}", text.body);
    }
}

#[test]
fn names_of_strangers_do_nothing() {
    let node = start(&[]);
    let html = node.exporter.get("/").body;
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&amp;&#39;&quot;\u{fffd}[2J"), "{html}");
    assert!(!html.contains("<script>alert") && !html.contains('\u{1b}'));
    let text = node.exporter.get("/?text").body;
    assert!(text.contains("17 (<script>alert(1)</script>&'\"?[2J)"), "{text}");
    assert!(text.chars().all(|character| character == '\n' || !character.is_control()));
}

#[test]
fn headers_and_what_a_client_takes() {
    let node = start(&[]);
    let html = node.exporter.get("/");
    let policy = html.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!((html.header("cache-control"), html.header("vary")), (Some("no-store"), Some("Accept")));
    // Each style and script of the document has the hash that the policy names, and nothing is inline besides.
    for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inside = html.body.split(&open).nth(1).and_then(|rest| rest.split(&close).next()).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, inside.as_bytes());
        use base64::Engine;
        let hash = base64::prelude::BASE64_STANDARD.encode(digest.as_ref());
        assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{policy}");
        assert_eq!(html.body.matches(&format!("<{tag}")).count(), 1);
    }
    for outside in [" style=\"", " onclick", "src=\"", "http://", "https://", "@import", "url("] {
        assert!(!html.body.contains(outside), "{outside}");
    }

    const HTML: &str = "text/html; charset=utf-8";
    const PLAIN: &str = "text/plain; charset=utf-8";
    for (path, accept, content_type) in [
        ("/", "*/*", HTML),
        ("/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", HTML),
        ("/", "text/plain", PLAIN),
        ("/", "text/plain, */*;q=0.1", PLAIN),
        ("/", "text/html, text/plain", HTML),
        ("/", "text/html;q=0.5, text/plain", PLAIN),
        ("/?text", "text/html", PLAIN),
        ("/?texts", "*/*", HTML),
        ("/status.json", "text/html", "application/json"),
    ] {
        let get = ask(&node.exporter, "GET", path, &format!("Accept: {accept}\r\n"));
        assert_eq!((get.status, get.header("content-type")), (200, Some(content_type)), "{path} {accept}");
    }
    // The age may have one digit more in the next answer.
    for path in ["/", "/?text", "/status.json"] {
        let mut client = Client::connect(node.exporter.port).unwrap();
        let head = client.ask(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
        let get = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        assert_eq!((head.status, get.status), (200, 200), "{path}");
        assert!(length > 100 && head.header("content-type") == get.header("content-type"), "{path}");
        assert_eq!(head.header("content-security-policy"), Some(policy), "{path}");
    }
}

#[test]
fn names_can_be_left_out_and_the_page_switched_off() {
    let node = start(&["--status-page", "gpus"]);
    for path in ["/", "/?text", "/status.json"] {
        let body = node.exporter.get(path).body;
        assert!(body.contains("GPU 0") && !body.contains("alert(1)"), "{path}: {body}");
    }
    assert_eq!(json_of(&node.exporter)["gpus"][0]["jobs"], 1);
    assert!(node.exporter.get("/?text").body.contains("1 in use"));

    let node = start(&["--status-page", "off"]);
    for path in ["/", "/?text"] {
        let landing = node.exporter.get(path);
        assert_eq!((landing.status, landing.header("content-type")), (200, Some("text/html; charset=utf-8")));
        assert!(landing.body.starts_with("<!doctype html>\n<html><head><title>GPU Exporter"), "{}", landing.body);
    }
    assert_eq!(node.exporter.get("/status.json").status, 404);
    drop(node.scratch);
}

#[test]
fn it_follows_the_servers_authentication() {
    use base64::Engine;
    let scratch = Scratch::new();
    let web = scratch.write("web.yml", format!("basic_auth_users:\n  alice: {}\n", bcrypt::hash("secret", 4).unwrap()));
    let counters = scratch.write("counters.csv", COUNTERS);
    let plan = scratch.write("scenario.json", scenario_with_values(&[0]).to_string());
    let mut command = exporter();
    command.env("DCGM_SIMULATOR_SCENARIO", plan).arg("-f").arg(counters).arg("--web-config-file").arg(web);
    let exporter = Exporter::start(&mut command);
    let login = base64::prelude::BASE64_STANDARD.encode("alice:secret");
    for path in ["/", "/?text", "/status.json"] {
        let stranger = ask(&exporter, "GET", path, "");
        assert_eq!((stranger.status, stranger.body.as_str()), (401, "Unauthorized\n"), "{path}");
        let user = ask(&exporter, "GET", path, &format!("Authorization: Basic {login}\r\n"));
        assert_eq!(user.status, 200, "{path}");
    }
}

#[test]
fn a_released_exporter_and_a_lost_gpu_are_shown() {
    let mut node = start(&[]);
    node.exporter.signal(Signal::USR1);
    let released = |exporter: &mut Exporter| {
        let json = json_of(exporter);
        json["state"].as_str().is_some_and(|state| state.starts_with("released")).then_some(json)
    };
    let json = node.exporter.until("it is released", released);
    assert_eq!(json["gpus"], json!([]));
    node.exporter.signal(Signal::USR2);
    node.exporter.until("it is back", |exporter| {
        (json_of(exporter)["gpus"].as_array().is_some_and(|gpus| gpus.len() == 2)).then_some(())
    });
}

/// A page that is asked for again and again takes no more memory than at first.
#[test]
fn memory_is_bounded() {
    let node = start(&["-c", "100ms"]);
    let round = || {
        for path in ["/", "/?text", "/status.json"] {
            let mut client = Client::connect(node.exporter.port).unwrap();
            for _ in 0..200 {
                let response = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
                assert_eq!(response.status, 200);
            }
        }
    };
    round();
    let before = node.exporter.resident_kib();
    round();
    round();
    let after = node.exporter.resident_kib();
    assert!(after < before + 2048, "{before} KiB became {after} KiB");
}

/// A time of DCGM after the year 9999, which no text form has.
#[test]
fn a_time_that_cannot_be_written() {
    let mut plan = scenario(&[0]);
    plan["replay"] = true.into();
    plan["latest_values"][0]["fields"]["150"]["timestamp"] = 300_000_000_000_000_000i64.into();
    let node = crate::node::Node::new(plan);
    let mut exporter = Exporter::start(&mut node.exporter(GPU_TEMP));
    exporter.page();
    for path in ["/", "/?text", "/status.json"] {
        let answer = exporter.until("the page is made", |exporter| {
            Some(exporter.get(path)).filter(|answer| answer.status == 200 && answer.body.contains("GPU"))
        });
        assert!(!answer.body.contains("panicked"), "{}", answer.body);
    }
    assert!(!exporter.log().contains("panicked"), "{}", exporter.log());
}
