"""Draws the dashboard for the documentation: a daemon under load, a real Prometheus, the panels'
own queries and places, matplotlib (pip install matplotlib; no test needs it).

Usage: draw_dashboard.py MODEL.gguf SECONDS OUTPUT.png
"""

import re
import sys
import tempfile
import time

import matplotlib
from deploy_harness import Daemon, Dashboard, Prometheus
from grafana_test import Load

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

RATE_INTERVAL_S = 15
CELL_INCHES = (0.55, 0.28)  # of one of the 24 columns, of one row
UNITS = {"s": (lambda v: f"{v * 1e3:.0f} ms" if v < 1 else f"{v:.1f} s"),
         "percentunit": lambda v: f"{100 * v:.3g} %", "none": lambda v: f"{v:,.4g}",
         "bytes": lambda v: f"{v / 2**20:.0f} MiB"}


def readable(value, unit):
    return UNITS.get(unit, lambda v: f"{v:.3g}")(value)


def legend(pattern, labels):
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), pattern)


def read(panel, prometheus, dashboard, start, end):
    """[(legend, seconds since the start, values)]"""
    lines = []
    for target in panel["targets"]:
        query = dashboard.fill_in(target["expr"])
        for labels, points in prometheus.query_range(query, start, end):
            if points:
                lines.append((legend(target["legendFormat"], labels),
                              [t - start for t, _ in points], [v for _, v in points]))
    return lines


def draw_panel(axes, panel, lines):
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_title(panel["title"], fontsize=8, loc="left", fontweight="bold")
    if panel["type"] == "stat":
        axes.axis("off")
        axes.text(0.5, 0.4, readable(lines[0][2][-1], defaults["unit"]), fontsize=17, ha="center",
                  va="center", transform=axes.transAxes)
        return
    if "stacking" in defaults["custom"]:
        length = min(len(values) for _, _, values in lines)
        axes.stackplot(lines[0][1][-length:], *[values[-length:] for _, _, values in lines],
                       labels=[name for name, _, _ in lines], alpha=0.6)
    else:
        for name, seconds, values in lines:
            axes.plot(seconds, values, linewidth=1, label=name)
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.yaxis.set_major_locator(plt.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: readable(value, defaults["unit"]))
    axes.tick_params(labelsize=6, length=2)
    axes.grid(linewidth=0.3)
    axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.08), ncols=3, frameon=False,
                columnspacing=1, handlelength=1)


def draw(dashboard, prometheus, start, end, path):
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard.json["panels"])
    figure = plt.figure(figsize=(24 * CELL_INCHES[0], rows * CELL_INCHES[1]), dpi=100)
    for panel in dashboard.json["panels"]:
        place = panel["gridPos"]
        top = 1 - place["y"] / rows
        if panel["type"] == "row":
            figure.text(0.005, top - 0.6 / rows, panel["title"], fontsize=11)
            continue
        axes = figure.add_axes([(place["x"] + 1.0) / 24, top - (place["h"] - 1.9) / rows,
                                (place["w"] - 1.5) / 24, (place["h"] - 3.1) / rows])
        draw_panel(axes, panel, read(panel, prometheus, dashboard, start, end))
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main(model, seconds, path):
    dashboard = Dashboard(RATE_INTERVAL_S)
    with tempfile.TemporaryDirectory() as folder:
        load = Load(folder, pause_s=2)
        flags = (*load.flags, "--served-model-name", "SmolLM2-135M-Instruct")
        with Daemon(*flags, model=model) as daemon:
            with Prometheus([daemon.metrics_target]) as prometheus:
                with load.on(daemon):
                    time.sleep(RATE_INTERVAL_S)
                    start = time.time()
                    time.sleep(float(seconds))
                    end = time.time()
                draw(dashboard, prometheus, start, end, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
