# SPDX-License-Identifier: Apache-2.0
"""Numbers on the page of the instability study are those of the committed results."""

import csv
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
from experiments.residual_scaling.outcomes import FAILED, UNSTABLE
from experiments.residual_scaling.plans import BASE, PLANS
from experiments.residual_scaling.runs import DEFAULTS, LATER_FIELDS, Run
from experiments.residual_scaling.study import Study
from experiments.residual_scaling.tables import run_id
from experiments.residual_scaling.verdicts import CLAIMS

FOLDER = Path(__file__).parents[2] / "experiments" / "residual_scaling"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
# "8/15", "-4.4 [-12.7, 3.9]", "70 [60, > 80]"
NUMBERS = re.compile(r"-?[\d.]+ \[[^\]]+\]|\b\d+/\d+\b")
VERDICTS = re.compile("not reproduced|reproduced|contradicted|undecided|not tested")
WORDS = {"four": 4, "six": 6, "eight": 8}
REMEDIES = {
    "no change": {},
    "blocks of Fig. 19": {"block": "v2"},
    "SGD with momentum": {"optimizer": "momentum"},
    "pre-activation": {"activation": "pre"},
    "leaky ReLU after the sum": {"activation": "leaky_relu"},
    "no momentum": {"momentum": 0.0},
    "gradients clipped at norm 2": {"clip_norm": 2.0},
    "gradients clipped at norm 0.1": {"clip_norm": 0.1},
    "LayerScale initialised at 0.1": {
        "learned_scale": "channel",
        "learned_scale_init": 0.1,
    },
    "LayerScale initialised at 0.00001": {
        "learned_scale": "channel",
        "learned_scale_init": 1e-5,
    },
    "published head: no ReLU after the last block, then a 1x1 convolution": {
        "head": "published"
    },
    "one learned scale per block, initialised at 1": {"learned_scale": "scalar"},
    "one learned scale per block, initialised at 0.1": {
        "learned_scale": "scalar",
        "learned_scale_init": 0.1,
    },
    "one learned scale per block, initialised at 0 (SkipInit, ReZero)": {
        "learned_scale": "scalar",
        "learned_scale_init": 0.0,
    },
    "batch normalisation of the residual": {"residual_norm": True},
    "batch normalisation of the residual, scale 0.1": {"residual_norm": True, "scale": 0.1},
    "scale 0.5": {"scale": 0.5},
    "scale 0.2": {"scale": 0.2},
    "scale 0.1": {"scale": 0.1},
}


def table(name: str) -> list[dict[str, str]]:
    with (FOLDER / "results" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page_table(heading: str) -> list[list[str]]:
    """Return the rows of the table whose header line begins with `heading`."""
    lines = PAGE[PAGE.index(f"| {heading}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def evidence(rows: list[dict[str, str]]) -> str:
    return " ".join(f"{row['evidence']} {row['details']}" for row in rows)


def test_the_page_has_every_claim():
    assert [int(row[0].split(".")[0]) for row in page_table("claim")] == list(CLAIMS)


@pytest.mark.parametrize("row", page_table("claim"), ids=lambda row: row[0][:2])
def test_a_claim_has_the_verdicts_and_numbers_of_the_results(row):
    claim, verdict, text = row
    verdicts = [v for v in table("verdicts.csv") if v["claim"] == claim.split(".")[0]]
    kinds = [v["verdict"].removesuffix(" at this scale") for v in verdicts]
    assert set(VERDICTS.findall(verdict)) <= set(kinds)
    committed = evidence(verdicts)
    for number in NUMBERS.findall(text) + re.findall(r"log-loss ([\d.]+)", text):
        assert number in committed
    for p in re.findall(r"p = ([\d.]+) after Holm", text):
        assert p in {f"{float(v['p_holm']):.3f}" for v in verdicts}
    if of := re.search(r"reproduced in (\w+) of (\w+) comparisons", verdict):
        counts = kinds.count("reproduced"), len(kinds)
        assert counts == (WORDS[of[1]], WORDS[of[2]])
    if of := re.search(r"of (\w+) settings", text):
        assert f"of {WORDS[of[1]]} settings" in committed


def test_remedies_are_those_of_the_longer_plan():
    outcomes = {row["id"]: row["outcome"] for row in table("more/runs.csv")}
    rows = page_table("change")
    assert [row[0] for row in rows] == list(REMEDIES)
    for label, failed, unstable in rows:
        setting = replace(BASE, **REMEDIES[label])
        ids = [run_id(replace(setting, seed=seed)) for seed in range(8)]
        ended = [outcomes[key] for key in ids if key in outcomes]
        counts = [sum(o in group for o in ended) for group in (FAILED, UNSTABLE)]
        assert [failed, unstable] == [f"{count}/{len(ended)}" for count in counts], label


def test_other_numbers_of_the_page_are_committed_results():
    remedies = " ".join(" ".join(row) for row in page_table("change"))
    committed = evidence(table("verdicts.csv") + table("more/verdicts.csv")) + remedies
    for number in NUMBERS.findall(PAGE):
        assert number in committed
    planned = {plan: len(Study(PLANS[plan], FOLDER).runs) for plan in ("cpu", "cpu_more")}
    assert f"the plan cpu: {planned['cpu']} runs\n" in PAGE
    assert planned["cpu"] == len(table("runs.csv"))
    trained = len(table("more/runs.csv"))
    assert f"{planned['cpu_more']} runs planned, {trained} finished\n" in PAGE


@pytest.mark.parametrize("name", ["runs.csv", "more/runs.csv"])
def test_committed_runs_are_runs_of_the_study(name):
    """The identifier is computed from the fields, so none was altered."""
    kinds = {int: int, float: float, bool: "True".__eq__}
    for row in table(name):
        values = {}
        for field in fields(Run):
            if field.name not in row:
                assert field.name in LATER_FIELDS
                continue
            optional = field.name in ("scale", "clip_norm")
            convert = float if optional else kinds.get(field.type, str)
            values[field.name] = None if row[field.name] == "" else convert(row[field.name])
        run = Run(**values)
        assert run_id(run) == row["id"]
        assert set(values) | LATER_FIELDS == set(DEFAULTS)
        assert row["outcome"] in {*UNSTABLE, "healthy"}
