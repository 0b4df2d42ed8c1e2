# SPDX-License-Identifier: Apache-2.0
"""Chart and table of the committed measurements: `python -m experiments.speed.chart`.

The command draws results.png from results.json and prints the table of README.md. A list of
numbers in results.json is a median, optionally followed by the lowest and highest of all
rounds.
"""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.speed.report import markdown_table

FOLDER = Path(__file__).parent
NETWORKS = {"inception_v4": "Inception-v4", "inception_resnet_v2": "Inception-ResNet-v2"}
# Okabe and Ito's palette, and shapes that differ without colour.
STYLES = {"timm": ("timm", "#0072B2", "o"), "keras": ("Keras on JAX", "#D55E00", "s")}
RATIOS = (0.7, 0.8, 1, 1.25, 1.5, 2, 2.5, 3)  # labelled on the axis
ROW = ("setup", "network", "task", "batch")

Measurement = dict[str, Any]


def load_results() -> dict[str, Any]:
    """Read results.json."""
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def group_rows(results: dict[str, Any]) -> dict[tuple, dict[str, Measurement]]:
    """Return the measurements of each row by implementation; rows are keyed by `ROW`."""
    rows: dict[tuple, dict[str, Measurement]] = {}
    for measurement in results["measurements"]:
        key = tuple(measurement[name] for name in ROW)
        rows.setdefault(key, {})[measurement["implementation"]] = measurement
    return rows


def table(results: dict[str, Any]) -> str:
    """Return the table of README.md; ratios below 1 are bold."""
    header = (
        *("hardware", "network", "task", "batch size"),
        *("this package, images/s", "timm, images/s"),
        *("this package / timm", "this package / Keras"),
    )
    lines = []
    for (setup, network, task, batch), row in group_rows(results).items():
        name = results["setups"][setup]["name"]
        rates = (_rate(row, implementation) for implementation in ("ours", "timm"))
        ratios = (_ratio(row, implementation) for implementation in STYLES)
        lines.append((name, NETWORKS[network], task, batch, *rates, *ratios))
    return markdown_table(header, lines)


def _rate(row: dict[str, Measurement], implementation: str) -> str:
    rate = row.get(implementation, {}).get("images_per_second")
    if rate is None:
        return "-"
    digits = 0 if rate[0] >= 100 else 1 if rate[0] >= 1 else 2
    return f"{rate[0]:,.{digits}f}"


def _ratio(row: dict[str, Measurement], implementation: str) -> str:
    if implementation not in row:
        return "-"
    median, low, high = row[implementation]["ratio"]
    bold = "**" if median < 1 else ""
    return f"{bold}{median:.2f}{bold} ({low:.2f} to {high:.2f})"


def draw(results: dict[str, Any]) -> Figure:
    """Draw every ratio with its spread on a logarithmic axis."""
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    axes = figure.subplots()
    labels: dict[int, str] = {}  # by position on the vertical axis
    headings: dict[str, int] = {}
    for (setup, network, task, batch), row in group_rows(results).items():
        if setup not in headings:
            headings[setup] = len(labels) + len(headings)
        position = len(labels) + len(headings)
        images = "1 image" if batch == 1 else f"{batch} images"
        labels[position] = f"{NETWORKS[network]}, {task}, {images}"
        for implementation, (_, color, marker) in STYLES.items():
            if implementation in row:
                median, low, high = row[implementation]["ratio"]
                axes.plot([low, high], [position, position], color=color, linewidth=2)
                axes.plot(median, position, marker, color=color)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
    for name, position in headings.items():
        text = "{name}, {dtype}".format(**results["setups"][name])
        axes.text(-0.02, position, text, weight="bold", size=9, **place)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(RATIOS, [f"{ratio:g}" for ratio in RATIOS])
    axes.minorticks_off()
    axes.set_yticks(list(labels), list(labels.values()), size=9)
    axes.set_ylim(max(labels) + 0.8, -0.8)
    axes.set_xlabel("ratio of images/s (above 1, this package is faster)")
    for name, color, marker in STYLES.values():
        axes.plot([], [], marker, color=color, label=f"against {name}")
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Write the chart and print the table."""
    results = load_results()
    # Without matplotlib's version the same figure gives the same file.
    draw(results).savefig(FOLDER / "results.png", dpi=100, metadata={"Software": None})
    print(table(results))


if __name__ == "__main__":
    main()
