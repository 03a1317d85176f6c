//! What `--check` says of the service itself: whether it runs, is started again and again, or has ended, and how.

use super::answers::Answers;
use super::systemd::Shown;
use super::unit::SERVICE;

const QUESTION: &str = "service";
const LOG: &str = "see its log: journalctl -u dcgm-exporter; what else fails here may be the reason";

/// As systemd has it; nothing where no systemd runs, or no unit is installed.
pub fn service(shown: Option<&Shown>, answers: &mut Answers) {
    let Some(shown) = shown.filter(|shown| shown.of(SERVICE, "LoadState") == "loaded") else { return };
    let of = |property: &str| shown.of(SERVICE, property);
    let restarts: u32 = of("NRestarts").parse().unwrap_or(0);
    let again = match restarts {
        0 => String::new(),
        1 => ", started again once".to_owned(),
        _ => format!(", started again {restarts} times"),
    };
    match (of("ActiveState"), of("SubState")) {
        ("active" | "reloading", _) => answers.ok(QUESTION, format!("runs, as process {}{again}", of("MainPID"))),
        ("activating", "auto-restart") => answers.fail(
            QUESTION,
            format!("ends and is started again and again: {restarts} times; last {}", ending(shown)),
            LOG,
        ),
        ("activating", _) if restarts > 2 => {
            answers.fail(QUESTION, format!("starts again, for the {restarts}th time; last {}", ending(shown)), LOG);
        }
        ("activating", _) => answers.ok(QUESTION, format!("starts{again}")),
        ("failed", _) => answers.fail(QUESTION, format!("has failed{again}; last {}", ending(shown)), LOG),
        _ if shown.of("dcgm-exporter.socket", "ActiveState") == "active" => {
            answers.ok(QUESTION, "does not run; systemd starts it at the first request (dcgm-exporter.socket)");
        }
        (state, _) => answers.warn(
            QUESTION,
            format!("does not run ({state}); last {}", ending(shown)),
            "systemctl start dcgm-exporter; if it ends again, see journalctl -u dcgm-exporter",
        ),
    }
}

/// How its main process ended: `ended with status 1 (exit-code)`.
fn ending(shown: &Shown) -> String {
    let (status, result) = (shown.of(SERVICE, "ExecMainStatus"), shown.of(SERVICE, "Result"));
    match shown.of(SERVICE, "ExecMainCode") {
        "1" => format!("ended with status {status} ({result})"),
        // 3 is a core dump.
        "2" | "3" => format!("ended by signal {status} ({result})"),
        _ if result == "success" => "it was not started since the boot".to_owned(),
        _ => format!("it could not be started ({result})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_the_service_is() {
        let of = |properties: &str| {
            let unit = format!("Id={SERVICE}\nLoadState=loaded\n{properties}\n");
            let mut answers = Answers::default();
            service(Some(&Shown::parse(&unit)), &mut answers);
            let answer = answers.iter().next().unwrap();
            format!("{} {}", answer.status.name(), answer.found)
        };
        let ended = "ExecMainCode=1\nExecMainStatus=1\nResult=exit-code\n";
        for (properties, expected) in [
            ("ActiveState=active\nSubState=running\nMainPID=17\nNRestarts=0\n", "ok runs, as process 17"),
            (
                "ActiveState=activating\nSubState=auto-restart\nNRestarts=7\n",
                "fail ends and is started again and again: 7 times; last ended with status 1 (exit-code)",
            ),
            ("ActiveState=activating\nSubState=start\nNRestarts=0\n", "ok starts"),
            (
                "ActiveState=failed\nSubState=failed\nNRestarts=0\n",
                "fail has failed; last ended with status 1 (exit-code)",
            ),
            (
                "ActiveState=inactive\nSubState=dead\n",
                "warn does not run (inactive); last ended with status 1 (exit-code)",
            ),
            (
                "ActiveState=inactive\n\nId=dcgm-exporter.socket\nActiveState=active",
                "ok does not run; systemd starts it at the first request (dcgm-exporter.socket)",
            ),
        ] {
            assert_eq!(of(&format!("{ended}{properties}")), expected);
        }
        assert!(of("ActiveState=inactive\nExecMainCode=0\nResult=success").ends_with("not started since the boot"));
        assert!(of("ActiveState=failed\nExecMainCode=2\nExecMainStatus=9\nResult=signal").contains("by signal 9"));
        let mut answers = Answers::default();
        service(None, &mut answers);
        assert_eq!(answers.iter().count(), 0);
    }
}
