# SPDX-License-Identifier: Apache-2.0
"""Costs of the recipes: plans.json, the docstrings, and the command that writes them."""

import shutil
from dataclasses import replace

import pytest

from experiments import cost
from experiments.cost import (
    Cost,
    cost_entry,
    cost_from_plan,
    read_costs,
    record_cost,
    replace_cost_entry,
)
from experiments.networks import RECIPES
from inception_jax.planning.aot import CompiledStep, TooLarge
from inception_jax.planning.hlo import Movement
from inception_jax.planning.plan import LargestBatch, Plan
from inception_jax.planning.roofline import GIB, get_slice

CONFIG = RECIPES["inception_v4"].CONFIG
COST = Cost("v5e:4x4", 640, 5 * GIB, 128, 2.8e12, 10**10, 10**8, 0.02, 0.07, "jax 1")


@pytest.fixture
def folder(tmp_path):
    """A writable copy of the recipes."""
    return shutil.copytree(cost.FOLDER, tmp_path / "networks")


def test_a_cost_is_recorded_once(folder):
    recipe = folder / "inception_v4.py"
    before = recipe.read_text()
    record_cost("inception_v4", COST, folder)
    once = recipe.read_text()
    assert cost_entry(CONFIG, COST) in once
    assert read_costs(folder)["inception_v4"] == COST
    record_cost("inception_v4", COST, folder)
    assert recipe.read_text() == once
    record_cost("inception_v4", replace(COST, largest=256, expected_seconds=None), folder)
    assert recipe.read_text() != once
    record_cost("inception_v4", read_costs()["inception_v4"], folder)
    assert recipe.read_text() == before
    assert read_costs(folder) == read_costs()


def test_cost_entry():
    # 2.8e12 / 40 operations for each of 160 x 1,281,167 images; 320,292 steps.
    text = " ".join(cost_entry(CONFIG, COST).split())
    assert text.startswith(
        "Cost estimated by experiments.cost, not measured: 1.4e+19 operations"
    )
    assert "5.0 of 16 GiB per chip with 40 images per chip (up to 128 would fit)" in text
    assert "160 epochs take at least 1.8 hours (roofline), about 6 by the compiler" in text
    not_searched = cost_entry(CONFIG, replace(COST, largest=None))
    assert " ".join(not_searched.split()).endswith("with 40 images per chip")
    assert max(map(len, cost_entry(CONFIG, COST).splitlines())) <= 92


def test_a_recipe_needs_exactly_one_entry():
    with pytest.raises(ValueError, match="has 0 Cost entries, expected 1"):
        replace_cost_entry('"""A recipe."""\n', CONFIG, COST)
    text = "Cost         a\nCost         b\n"
    with pytest.raises(ValueError, match="has 2 Cost entries, expected 1"):
        replace_cost_entry(text, CONFIG, COST)


@pytest.mark.parametrize("name", cost.ON_IMAGENET)
def test_recipes_agree_with_their_plans(name):
    recorded, config = read_costs()[name], RECIPES[name].CONFIG
    assert cost_entry(config, recorded) in RECIPES[name].__doc__
    assert recorded.batch_size == config.batch_size
    assert recorded.roofline_seconds < recorded.expected_seconds


def test_the_command_plans_and_records(folder, monkeypatch, capsys):
    moved = Movement({"all-reduce": 1}, {"all-reduce": 10**9}, 0, 819 * 10**8, 0, 3 * 10**8)
    memory = {"arguments": GIB, "results": 0, "reused": 0, "temporary": GIB, "code": 0}
    program = CompiledStep(16, 1.0, memory | {"peak": 1}, 1e12, moved, (), 1, 2, 3)
    largest = LargestBatch(64, "v5e:2x2", program, TooLarge(20 * GIB, 16 * GIB, 1.0))

    def plan(config, topology, **options):
        return Plan(config, get_slice(topology), program, largest)

    monkeypatch.setattr(cost, "make_plan", plan)
    monkeypatch.setattr(cost, "version", lambda name: "1")
    monkeypatch.setattr(cost, "FOLDER", folder)
    assert cost.main(["inception_v3"]) == 0
    assert "Cost" in capsys.readouterr().out
    found = read_costs(folder)["inception_v3"]
    assert found == cost_from_plan(plan(RECIPES["inception_v3"].CONFIG, "v5e:4x4"))
    assert (found.needed, found.largest, found.roofline_seconds) == (2 * GIB, 64, 0.1)
    # 0.3 G cycles of 1.5 GHz, and 2 GB to 15 of 16 parts over two links of 50 GB/s.
    assert found.expected_seconds == pytest.approx(0.2 + 2 * 15 / 16 / 100)
    assert cost.main(["digits"]) == 2
    assert "got digits" in capsys.readouterr().err
