#!/usr/bin/env python3
"""Makes the dashboards of this directory: python3 make.py [DIRECTORY].

Queries hold for both ways of job labels (--job-labels on-samples and info-only), for classic and base-unit names, and
count a GPU once that is divided into MIG instances. They need no recording rule. Variables come from metrics that every
page of the exporter has.
"""

import json
import pathlib
import sys

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
NODE = 'cluster=~"$cluster", instance=~"$node"'
GPU = NODE + ', gpu=~"$gpu"'
# A GPU or MIG instance in one series, whatever jobs it has, or a whole GPU in one series.
EACH = "max by (cluster, job, instance, gpu, UUID, GPU_I_ID)"
WHOLE = "max by (cluster, job, instance, gpu, UUID)"
LEGEND = "{{instance}} GPU {{gpu}} {{GPU_I_ID}}"


def either(labels, *forms):
    """The first of several forms of a metric that a page has; `@` stands for the labels."""
    return "(" + " or ".join(form.replace("@", "{" + labels + "}") for form in forms) + ")"


def utilization(labels):
    return either(
        labels, "DCGM_FI_DEV_GPU_UTIL@ / 100", "DCGM_FI_DEV_GPU_UTIL_RATIO@", "DCGM_FI_PROF_GR_ENGINE_ACTIVE@"
    )


def memory_used(labels):
    return either(labels, "DCGM_FI_DEV_FB_USED@ * 1048576", "DCGM_FI_DEV_FB_USED_BYTES@")


def memory_share(labels):
    used = memory_used(labels)
    free = either(labels, "DCGM_FI_DEV_FB_FREE@ * 1048576", "DCGM_FI_DEV_FB_FREE_BYTES@")
    return f"{used} / ({used} + {free})"


def sm_clock(labels):
    return either(labels, "DCGM_FI_DEV_SM_CLOCK@ * 1e6", "DCGM_FI_DEV_SM_CLOCK_HERTZ@")


def of_job(metric, by=EACH):
    """A metric of the GPUs of a job. The join makes it the same with job labels on samples and without."""
    return (
        f"{by} ({metric}) * on (job, instance, UUID, GPU_I_ID) group_right () "
        "max by (cluster, job, instance, gpu, UUID, GPU_I_ID, hpc_job) "
        '(dcgm_exporter_gpu_job{cluster=~"$cluster", hpc_job=~"$job"})'
    )


def target(expression, legend, ref, instant=False):
    query = prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend).ref_id(ref)
    if instant:
        return query.instant().format(prometheus_models.PromQueryFormat.TABLE)
    return query.range()


def filled(panel, title, description, unit, queries, legend, instant=False):
    panel = panel.title(title).description(description).datasource(SOURCE).unit(unit)
    queries = queries if isinstance(queries, list) else [(queries, legend)]
    for ref, (expression, text) in zip("ABCDEFGH", queries):
        panel = panel.with_target(target(expression, text, ref, instant))
    return panel


def graph(title, unit, queries, legend=LEGEND, description="", low=0, high=None, width=12, stacked=False):
    panel = timeseries.Panel().height(8).span(width).line_width(1).fill_opacity(10 if not stacked else 40)
    panel = panel.show_points(common_models.VisibilityMode.NEVER)
    panel = panel.tooltip(
        common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if low is not None:
        panel = panel.min(low)
    if high is not None:
        panel = panel.max(high)
    return filled(panel, title, description, unit, queries, legend)


def sent_and_received(title, aggregation, sent, received):
    queries = [
        (f"{aggregation} ({sent}{{{GPU}}})", LEGEND + " sent"),
        (f"-({aggregation} ({received}{{{GPU}}}))", LEGEND + " received"),
    ]
    return graph(title, "Bps", queries, low=None, description="Received is drawn downward.")


def number(title, unit, expression, description="", bad_from=None, width=4):
    steps = [models.Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(models.Threshold(value=bad_from, color="red"))
    thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().height(4).span(width).thresholds(thresholds)
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return filled(panel, title, description, unit, expression, "")


def rows(title, expression, description="", width=24, hide=(), names=None, unit="none"):
    """A table of the labels of what a query answers now."""
    panel = filled(table.Panel().height(8).span(width), title, description, unit, expression, "", instant=True)
    hidden = {name: True for name in ("Time", "job", "__name__", *hide)}
    organize = models.DataTransformerConfig(
        id_val="organize", options={"excludeByName": hidden, "renameByName": names or {}}
    )
    return panel.transformations([organize])


def variable(name, label, query, all_values=True, multi=True):
    """Names of a label. `.*` for all, so that a series without the label belongs to it, too."""
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name, "qryType": 1})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NATURAL_ASC)
        .multi(multi)
        .include_all(all_values)
    )
    if all_values:
        made = made.all_value(".*").current(models.VariableOption(text="All", value="$__all", selected=True))
    return made


CLUSTER = variable("cluster", "Cluster", "label_values(dcgm_exporter_build_info, cluster)")
NODES = variable("node", "Node", 'label_values(dcgm_exporter_build_info{cluster=~"$cluster"}, instance)')
GPUS = variable("gpu", "GPU", 'label_values(dcgm_exporter_entity_up{cluster=~"$cluster", instance=~"$node"}, gpu)')
JOBS = variable("job", "Job", 'label_values(dcgm_exporter_gpu_job{cluster=~"$cluster"}, hpc_job)', False)


def board(uid, title, description, variables, parts):
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["gpu", "dcgm-exporter"])
        .editable()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("GPU dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["dcgm-exporter"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for one in variables:
        made = made.with_variable(one)
    for part in parts:
        made = made.with_row(dashboard.Row(part)) if isinstance(part, str) else made.with_panel(part)
    return made


def node():
    clock_events = f'DCGM_EXP_CLOCK_EVENTS_SECONDS_TOTAL{{{GPU}, clock_event!="gpu_idle"}}'
    return board(
        "dcgm-exporter-node",
        "GPU node",
        "GPUs of one or more nodes: what they do, what holds them back, and what is wrong with them.",
        [CLUSTER, NODES, GPUS],
        [
            number("GPUs", "none", f"count({WHOLE} (dcgm_exporter_entity_up{{{GPU}}} == 1))"),
            number("Lost GPUs", "none", f"sum({WHOLE} (1 - dcgm_exporter_entity_up{{{GPU}}}))", bad_from=1),
            number("Utilization", "percentunit", f"avg({EACH} ({utilization(GPU)}))"),
            number("Memory in use", "percentunit", f"avg({EACH} ({memory_share(GPU)}))"),
            number("Power", "watt", f"sum({WHOLE} (DCGM_FI_DEV_POWER_USAGE{{{GPU}}}))"),
            number(
                "Age of the samples",
                "s",
                f"max(timestamp(dcgm_exporter_last_collect_timestamp_seconds{{{NODE}}})"
                f" - dcgm_exporter_last_collect_timestamp_seconds{{{NODE}}})",
                bad_from=60,
            ),
            "Use",
            graph("Utilization", "percentunit", f"{EACH} ({utilization(GPU)})", high=1),
            graph("Memory in use", "bytes", f"{EACH} ({memory_used(GPU)})"),
            graph("SM activity", "percentunit", f"{EACH} (DCGM_FI_PROF_SM_ACTIVE{{{GPU}}})", high=1),
            graph(
                "Tensor and memory activity",
                "percentunit",
                [
                    (f"{EACH} (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{GPU}}})", LEGEND + " tensor"),
                    (f"{EACH} (DCGM_FI_PROF_DRAM_ACTIVE{{{GPU}}})", LEGEND + " memory"),
                ],
                high=1,
            ),
            sent_and_received("PCIe", EACH, "DCGM_FI_PROF_PCIE_TX_BYTES", "DCGM_FI_PROF_PCIE_RX_BYTES"),
            graph(
                "Jobs",
                "none",
                [
                    (
                        f"count by (hpc_job) (dcgm_exporter_gpu_job{{{GPU}}})",
                        "{{hpc_job}}",
                    )
                ],
                description="GPUs and instances by job.",
                stacked=True,
            ),
            "Power, temperature and clocks",
            graph("Power", "watt", f"{WHOLE} (DCGM_FI_DEV_POWER_USAGE{{{GPU}}})"),
            graph("Temperature", "celsius", f"{WHOLE} (DCGM_FI_DEV_GPU_TEMP{{{GPU}}})", low=None),
            graph("SM clock", "hertz", f"{WHOLE} ({sm_clock(GPU)})"),
            graph(
                "Clocks held down, share of time",
                "percentunit",
                f"max by (instance, gpu, clock_event) (rate({clock_events}[$__rate_interval]))",
                "{{instance}} GPU {{gpu}} {{clock_event}}",
                high=1,
            ),
            "Errors",
            graph(
                "XID errors",
                "none",
                f"sum by (instance, gpu, GPU_I_ID, xid) (increase(DCGM_EXP_XID_ERRORS_TOTAL{{{GPU}}}[$__rate_interval])) > 0"
                f" or 0 * sum by (instance, gpu, GPU_I_ID) (DCGM_EXP_XID_ERRORS_TOTAL{{{GPU}}})",
                LEGEND + " XID {{xid}}",
            ),
            graph(
                "Memory errors",
                "none",
                [
                    (
                        f"{WHOLE} (increase(DCGM_FI_DEV_ECC_SBE_VOL_TOTAL{{{GPU}}}[$__rate_interval]))",
                        LEGEND + " corrected",
                    ),
                    (
                        f"{WHOLE} (increase(DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{GPU}}}[$__rate_interval]))",
                        LEGEND + " uncorrectable",
                    ),
                    (f"{WHOLE} (DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{GPU}}})", LEGEND + " rows remapped"),
                ],
            ),
            rows(
                "Exporter",
                f"dcgm_exporter_build_info{{{NODE}}} * on (job, instance) group_left (mode, address)"
                f" dcgm_exporter_engine_info{{{NODE}}}",
                width=12,
                hide=("Value",),
            ),
            rows("State", f"dcgm_exporter_state{{{NODE}}} == 1", width=12, hide=("Value",)),
        ],
    )


def job():
    every = 'cluster=~"$cluster"'
    return board(
        "dcgm-exporter-job",
        "GPU job",
        "The GPUs of a batch job on all its nodes. Needs a job map (dist/slurm).",
        [CLUSTER, JOBS],
        [
            number("GPUs and instances", "none", 'count(dcgm_exporter_gpu_job{cluster=~"$cluster", hpc_job=~"$job"})'),
            number(
                "Nodes",
                "none",
                'count(count by (instance) (dcgm_exporter_gpu_job{cluster=~"$cluster", hpc_job=~"$job"}))',
            ),
            number("Utilization", "percentunit", f"avg({of_job(utilization(every))})"),
            number("GPUs at 0 % now", "none", f"count({of_job(utilization(every))} == 0) or vector(0)", bad_from=1),
            number("Memory in use", "percentunit", f"avg({of_job(memory_share(every))})"),
            number(
                "Power",
                "watt",
                f"sum({of_job(f'DCGM_FI_DEV_POWER_USAGE{{{every}}}', WHOLE)}) or vector(0)",
                "Whole GPUs; an instance has no power of its own. A GPU that several jobs share counts in full.",
            ),
            rows(
                "Job",
                'dcgm_exporter_job_info{cluster=~"$cluster", hpc_job=~"$job"}',
                hide=("Value", "exported_cluster"),
            ),
            graph("Utilization", "percentunit", of_job(utilization(every)), high=1),
            graph("Memory in use", "bytes", of_job(memory_used(every))),
            graph("SM activity", "percentunit", of_job(f"DCGM_FI_PROF_SM_ACTIVE{{{every}}}"), high=1),
            graph("Tensor activity", "percentunit", of_job(f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{{{every}}}"), high=1),
            graph("Power", "watt", of_job(f"DCGM_FI_DEV_POWER_USAGE{{{every}}}")),
            graph("Temperature", "celsius", of_job(f"DCGM_FI_DEV_GPU_TEMP{{{every}}}"), low=None),
            graph("SM clock", "hertz", of_job(sm_clock(every))),
            graph(
                "NVLink",
                "Bps",
                [
                    (of_job(f"DCGM_FI_PROF_NVLINK_TX_BYTES{{{every}}}"), LEGEND + " sent"),
                    ("-(" + of_job(f"DCGM_FI_PROF_NVLINK_RX_BYTES{{{every}}}") + ")", LEGEND + " received"),
                ],
                low=None,
                description="Received is drawn downward.",
            ),
        ],
    )


def fleet():
    every = 'cluster=~"$cluster"'
    with_user = "dcgm_exporter_job_info" + f"{{{every}}}"
    return board(
        "dcgm-exporter-fleet",
        "GPU fleet",
        "All nodes: how many GPUs there are, who has them, what they do, and which need a hand.",
        [CLUSTER],
        [
            number("Nodes", "none", f"count(dcgm_exporter_build_info{{{every}}})"),
            number(
                "Nodes without metrics",
                "none",
                f'count(up{{job="dcgm-exporter", {every}}} == 0) or vector(0)',
                bad_from=1,
            ),
            number("GPUs", "none", f"count({WHOLE} (dcgm_exporter_entity_up{{{every}}} == 1))"),
            number("Lost GPUs", "none", f"sum({WHOLE} (1 - dcgm_exporter_entity_up{{{every}}}))", bad_from=1),
            number("Allocated", "percentunit", f"avg({WHOLE} (dcgm_exporter_gpu_allocated{{{every}}}))"),
            number("Power", "watt", f"sum({WHOLE} (DCGM_FI_DEV_POWER_USAGE{{{every}}}))"),
            graph(
                "Utilization by cluster",
                "percentunit",
                f"avg by (cluster) ({EACH} ({utilization(every)}))",
                "{{cluster}}",
                high=1,
            ),
            graph(
                "GPUs",
                "none",
                [
                    (f"count(max by (cluster, instance, UUID) (dcgm_exporter_entity_up{{{every}}} == 1))", "there"),
                    (
                        f"count(max by (cluster, instance, UUID) (dcgm_exporter_gpu_allocated{{{every}}} == 1))",
                        "allocated",
                    ),
                    (f"count(max by (cluster, instance, UUID) ({utilization(every)}) > 0)", "in use"),
                ],
            ),
            graph(
                "GPUs and instances by account",
                "none",
                f"count by (account) (dcgm_exporter_gpu_job{{{every}}} * on (job, instance, hpc_job)"
                f" group_left (account) {with_user})",
                "{{account}}",
                stacked=True,
            ),
            graph(
                "Power by cluster",
                "watt",
                f"sum by (cluster) ({WHOLE} (DCGM_FI_DEV_POWER_USAGE{{{every}}}))",
                "{{cluster}}",
                stacked=True,
            ),
            "Which need a hand",
            rows(
                "GPUs that are lost, advise a reset, cannot repair their memory or have links down",
                f"{WHOLE} (dcgm_exporter_entity_up{{{every}}}) == 0"
                f" or {WHOLE} (DCGM_FI_DEV_GPU_RECOVERY_ACTION{{{every}}}) > 0"
                f" or {WHOLE} (DCGM_FI_DEV_ROW_REMAP_FAILURE{{{every}}}) > 0"
                f' or {WHOLE} (DCGM_EXP_NVLINK_LINKS{{{every}, state="down"}}) > 0',
                "The alerts of dist/prometheus say what to do.",
                hide=("Value",),
            ),
            graph(
                "Hottest nodes",
                "celsius",
                f"topk(10, max by (instance) (DCGM_FI_DEV_GPU_TEMP{{{every}}}))",
                "{{instance}}",
                low=None,
            ),
            graph(
                "XID errors of the last hour",
                "none",
                f"sum by (xid) (increase(DCGM_EXP_XID_ERRORS_TOTAL{{{every}}}[1h])) > 0"
                f" or 0 * sum(DCGM_EXP_XID_ERRORS_TOTAL{{{every}}})",
                "XID {{xid}}",
            ),
            "Exporters",
            graph(
                "Resident memory",
                "bytes",
                f'max by (job) (process_resident_memory_bytes{{job="dcgm-exporter", {every}}})',
                "largest",
            ),
            graph(
                "Rows of the counters file without a field",
                "none",
                f"max by (instance) (dcgm_exporter_counters_skipped{{{every}}}) > 0 or vector(0)",
                "{{instance}}",
            ),
            graph(
                "Longest collection",
                "s",
                f"topk(10, max by (instance) (dcgm_exporter_last_collect_duration_seconds{{{every}}}))",
                "{{instance}}",
            ),
            rows(
                "Versions",
                f"count by (version) (dcgm_exporter_build_info{{{every}}})",
                width=12,
                names={"Value": "nodes"},
            ),
        ],
    )


def links():
    link = NODE + ', gpu=~"$gpu", nvlink!=""'
    return board(
        "dcgm-exporter-links",
        "NVLink and fabric",
        "NVLinks of the GPUs, NVSwitches and the fabric. Needs fleet-health.csv or blackwell.csv as counters file.",
        [CLUSTER, NODES, GPUS],
        [
            number("Links up", "none", f'sum({WHOLE} (DCGM_EXP_NVLINK_LINKS{{{GPU}, state="up"}}))', width=6),
            number(
                "Links down",
                "none",
                f'sum({WHOLE} (DCGM_EXP_NVLINK_LINKS{{{GPU}, state="down"}}))',
                bad_from=1,
                width=6,
            ),
            number(
                "GPUs with an unhealthy fabric",
                "none",
                f"count({WHOLE} (DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY{{{GPU}}}) >= 2) or vector(0)",
                bad_from=1,
                width=6,
            ),
            number(
                "GPUs not registered with the fabric",
                "none",
                f"count({WHOLE} (DCGM_FI_DEV_FABRIC_MANAGER_STATUS{{{GPU}}} == 1 or DCGM_FI_DEV_FABRIC_MANAGER_STATUS{{{GPU}}} == 2)) or vector(0)",
                bad_from=1,
                width=6,
            ),
            sent_and_received("NVLink throughput", WHOLE, "DCGM_FI_PROF_NVLINK_TX_BYTES", "DCGM_FI_PROF_NVLINK_RX_BYTES"),
            graph(
                "Links down",
                "none",
                f'max by (instance, gpu) (DCGM_EXP_NVLINK_LINKS{{{GPU}, state="down"}})',
                "{{instance}} GPU {{gpu}}",
            ),
            graph(
                "Errors by GPU",
                "none",
                [
                    (
                        f"{WHOLE} (increase(DCGM_FI_DEV_NVLINK_CRC_ERROR_TOTAL{{{GPU}}}[$__rate_interval])"
                        f" or increase(DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{{{GPU}}}[$__rate_interval]))",
                        LEGEND + " CRC",
                    ),
                    (
                        f"{WHOLE} (increase(DCGM_FI_DEV_NVLINK_REPLAY_TOTAL{{{GPU}}}[$__rate_interval])"
                        f" or increase(DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL{{{GPU}}}[$__rate_interval]))",
                        LEGEND + " replays",
                    ),
                    (
                        f"{WHOLE} (increase(DCGM_FI_DEV_NVLINK_RECOVERY_TOTAL{{{GPU}}}[$__rate_interval])"
                        f" or increase(DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL{{{GPU}}}[$__rate_interval]))",
                        LEGEND + " recoveries",
                    ),
                ],
                description="Hopper, and GPUs before it.",
            ),
            graph(
                "Times a link went down",
                "none",
                f"max by (instance, gpu, nvlink) (increase(DCGM_FI_DEV_NVLINK_PPCNT_PHYSICAL_LINK_DOWN_COUNTER{{{link}}}[$__rate_interval]))",
                "{{instance}} GPU {{gpu}} link {{nvlink}}",
            ),
            "Fabric",
            graph(
                "Health: 1 healthy, 2 unhealthy, 3 limited",
                "none",
                f"{WHOLE} (DCGM_FI_DEV_FABRIC_HEALTH_SUMMARY{{{GPU}}})",
            ),
            graph("Registration: 3 is done", "none", f"{WHOLE} (DCGM_FI_DEV_FABRIC_MANAGER_STATUS{{{GPU}}})"),
            "NVSwitches",
            graph(
                "Entities",
                "none",
                f'max by (instance, kind) (dcgm_exporter_entities{{{NODE}, kind=~"NvSwitch.*|GPU NvLink"}})',
                "{{instance}} {{kind}}",
            ),
            rows(
                "Switches and links whose values are old",
                f"dcgm_exporter_entity_stale{{{NODE}}} == 1",
                width=12,
                hide=("Value",),
            ),
        ],
    )


def text(builder):
    """As Grafana exports a dashboard for others: the data source is an input that is asked for at the import."""
    made = json.loads(JSONEncoder(sort_keys=True).encode(builder.build()))
    made["id"] = None
    made["__inputs"] = [
        {
            "name": "DS_PROMETHEUS",
            "label": "Prometheus",
            "description": "Prometheus or VictoriaMetrics that scrapes dcgm-exporter",
            "type": "datasource",
            "pluginId": "prometheus",
            "pluginName": "Prometheus",
        }
    ]
    made["__requires"] = [
        {"type": "grafana", "id": "grafana", "name": "Grafana", "version": "11.0.0"},
        {"type": "datasource", "id": "prometheus", "name": "Prometheus", "version": "1.0.0"},
    ]
    source = next(one for one in made["templating"]["list"] if one["name"] == "datasource")
    source["current"] = {"text": "Prometheus", "value": "${DS_PROMETHEUS}", "selected": True}
    panels = made["panels"] + [inner for panel in made["panels"] for inner in panel.get("panels", [])]
    for number_, panel in enumerate(panels, start=1):
        panel["id"] = number_
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def main():
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for name, make in {"node": node, "job": job, "fleet": fleet, "links": links}.items():
        (directory / f"{name}.json").write_text(text(make()))


if __name__ == "__main__":
    main()
