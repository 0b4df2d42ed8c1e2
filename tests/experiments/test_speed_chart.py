# SPDX-License-Identifier: Apache-2.0
"""Numbers in pages are those of results.json, and the chart shows all of them."""

import re
from pathlib import Path

import pytest

from experiments.speed import chart

ROOT = Path(__file__).parents[2]
RESULTS = chart.load_results()
MEASUREMENTS = RESULTS["measurements"]


def test_the_table_of_the_page_is_made_from_the_results():
    page = (chart.FOLDER / "README.md").read_text(encoding="utf-8")
    assert chart.table(RESULTS) in page, "run python -m experiments.speed.chart"
    assert "](results.png)" in page
    assert (chart.FOLDER / "results.png").stat().st_size < 100_000


def test_other_pages_quote_the_results():
    """Paragraphs and bullets that link to the page have its rates and ratios."""
    values = [x for m in MEASUREMENTS for x in m.get("images_per_second", [])]
    ratios = [x for m in MEASUREMENTS for x in m.get("ratio", [])]
    measured = {f"{x:,}" for x in values} | {f"{x:.2f}" for x in ratios}
    quoted = []
    for page in ("README.md", "experiments/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for item in re.split(r"\n(?=[\n|-])", text):
            if "speed/README.md)" in item:
                quoted += re.findall(r"(?<![\d.])(?:\d+,\d{3}|\d\.\d\d)(?!\d)", item)
    assert quoted
    assert set(quoted) <= measured


def test_measurements_are_complete_and_consistent():
    for row in chart.group_rows(RESULTS).values():
        assert row.keys() & set(chart.STYLES)
        for name, measurement in row.items():
            for values in (measurement.get("images_per_second"), measurement.get("ratio")):
                if values and len(values) > 1:
                    median, low, high = values
                    assert low <= median <= high
            assert ("ratio" in measurement) == (name != "ours")
            if name != "ours" and "images_per_second" in measurement:
                rates = [row[x]["images_per_second"][0] for x in ("ours", name)]
                assert measurement["ratio"][0] == pytest.approx(
                    rates[0] / rates[1], abs=0.01
                )
    for setup in RESULTS["setups"].values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", setup["date"])
        assert all(setup[name] for name in ("hardware", "versions", "command"))


def test_the_chart_shows_every_ratio():
    axes = chart.draw(RESULTS).axes[0]
    markers = [line for line in axes.lines if line.get_marker() in "os"]
    shown = [x for line in markers for x in line.get_xdata()]
    ratios = [m["ratio"][0] for m in MEASUREMENTS if "ratio" in m]
    assert sorted(shown) == sorted(ratios)
    low, high = axes.get_xlim()
    assert all(low < x < high for m in MEASUREMENTS for x in m.get("ratio", []))


def test_a_slower_network_is_bold():
    slower = {"timm": {"ratio": [0.7, 0.66, 0.77]}}
    assert chart._ratio(slower, "timm") == "**0.70** (0.66 to 0.77)"
    assert chart._ratio(slower, "keras") == "-"
