# SPDX-License-Identifier: Apache-2.0
"""The commands and examples of the README and the pages run."""

import importlib
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
import tyro

import inception_jax
from experiments import run
from experiments.networks import RECIPES
from experiments.residual_scaling import imagenet
from inception_jax.cli import plan as cli_plan
from inception_jax.cli.main import main
from inception_jax.config import PreprocessSpec
from inception_jax.models.zoo import SPECS
from inception_jax.training.fit import fit
from inception_jax.weights.model import Model, load, save
from inception_jax.weights.model_folder import Card, Origin
from tests.models.test_counts import EXPECTED
from tests.models.tiny import random_variables, three_grids

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
API = (ROOT / "inception_jax" / "README.md").read_text()
MODELS = ROOT / "inception_jax" / "models" / "README.md"
# Pages whose commands are tried or parsed.
PAGES = [README, API] + [
    path.read_text()
    for path in (
        MODELS,
        *(ROOT / "experiments").glob("*/README.md"),
        ROOT / "inception_jax" / "training" / "README.md",
    )
]
CARD = Card("tiny", PreprocessSpec((32, 32, 1)), tuple("abcde"), Origin("timm", "file"))


def blocks(language: str, pages: Sequence[str] = PAGES) -> list[str]:
    """Return the code blocks of a language in some pages."""
    pattern = rf"^[ ]*```{language}\n(.*?)^[ ]*```"
    return [
        block
        for page in pages
        for block in re.findall(pattern, page, re.DOTALL | re.MULTILINE)
    ]


def commands(pages: Sequence[str]) -> list[list[str]]:
    """Return the commands in the sh blocks of some pages, split into words."""
    lines = "".join(blocks("sh", pages)).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


TINY_CARD = replace(CARD, preprocess=PreprocessSpec((8, 8, 1)))


def variables_of(card: Card) -> dict:
    return random_variables(
        Model(card).network, jnp.zeros((1, *card.preprocess.image_shape))
    )


def test_the_two_commands_are_where_ci_looks_for_them():
    for marker, end in (
        ("run", 'pip install -e ".[study]" && python -m experiments.residual_scaling'),
        ("test", 'pip install -e ".[test]" && pytest'),
    ):
        assert README.count(f"<!-- {marker} command -->\n```sh\n") == 1
        line = README.split(f"<!-- {marker} command -->\n```sh\n")[1].split("\n")[0]
        assert line == f"python3 -m venv .venv && . .venv/bin/activate && {end}"
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_package_runs(tiny, photos, tmp_path, monkeypatch, capsys):
    """With tiny runs, models and photos under the names on the pages.

    `plan` takes minutes and is only parsed; test_first_day.py runs the commands from a
    published file to one's own classes.
    """
    monkeypatch.chdir(tmp_path)
    (photos / "train").rename(tmp_path / "classes")
    shutil.rmtree(photos)
    (tmp_path / "classes").rename(photos)
    save(tmp_path / "models" / "v4", TINY_CARD, variables_of(TINY_CARD))
    for name, seed in (("digits", 0), ("other", 1)):
        fit(replace(tiny, workdir=Path("runs") / name, steps=1, seed=seed))
    capsys.readouterr()
    first_day = README.split("<!-- first day -->\n```sh\n")[1].split("```")[0]
    pages = [README.replace(first_day, ""), *PAGES[1:]]
    found = [words[1:] for words in commands(pages) if words[0] == "inception-jax"]
    assert len(found) >= 6
    planned = []
    monkeypatch.setattr(cli_plan, "make_plan", lambda *a, **_: planned.append(a))
    monkeypatch.setattr(cli_plan, "describe", lambda _: "")
    for command in found:
        status = 0
        try:
            main(command)
        except SystemExit as end:
            status = end.code
        # These report with their status whether data is ready and whether runs differ.
        answers = command[:2] in (["data", "check"], ["ckpt", "diff"])
        assert status in ((0, 1) if answers else (0,)), command
        assert capsys.readouterr().out
    assert planned
    for config, topology in planned:
        assert (config.network, topology) == ("inception_v4", "v5e:4x4")


def test_every_command_of_an_experiment_parses():
    """Recipes, folders and options exist; tests/experiments runs them, on small data."""
    parsed = []
    for command in commands(PAGES):
        if command[:2] != ["python", "-m"] or not command[2].startswith("experiments"):
            continue
        module, arguments = command[2], command[3:]
        if module == "experiments.run":
            if arguments not in (["--help"], ["RECIPE"]):
                parsed.append(run.parse(arguments))
        elif module == "experiments.launch.local":
            assert arguments[4] in RECIPES
        elif module == "experiments.residual_scaling.imagenet":
            assert not arguments or arguments[0] in imagenet.RUNS
        else:
            commands_of = {
                "residual_scaling": ".run.study",
                "architecture": ".__main__",
                "speed": ".__main__",
            }
            module += commands_of.get(module.removeprefix("experiments."), "")
            experiment = importlib.import_module(module)
            if hasattr(experiment, "Options"):
                parsed.append(tyro.cli(experiment.Options, args=arguments))
    assert len(parsed) >= 18


def test_links_lead_somewhere():
    for page in ROOT.rglob("*.md"):
        if any(part.startswith(".") for part in page.relative_to(ROOT).parts):
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_names_in_the_table_of_figures_exist():
    rows = re.findall(r"^\| [^|]+ \| (\[[^|]+\)) \| ([^|]+) \|$", MODELS.read_text(), re.M)
    assert len(rows) >= 9
    for links, names in rows:
        paths = re.findall(r"\]\(([^)]+)\)", links)
        source = "".join((MODELS.parent / path).read_text() for path in paths)
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class |def )?{name}\b", source, re.M), f"{name}: {paths}"


def test_the_main_pages_are_short():
    assert len(README.splitlines()) <= 150
    assert len((ROOT / "experiments" / "README.md").read_text().splitlines()) <= 40


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_examples_of_the_api_run(tiny, tmp_path, monkeypatch, full):
    """Top to bottom; unless `full`, with a tiny network in place of Inception-ResNet-v1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SPECS, "tiny", three_grids())
    save(tmp_path / "models" / "v4", CARD, variables_of(CARD))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Path("photo.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    program = "\n".join(blocks("python", [API]))
    if not full:
        shrunk = (("inception_resnet_v1", "tiny"), ("(2, 75, 75, 3)", "(2, 32, 32, 1)"))
        for name, replacement in shrunk:
            assert name in program
            program = program.replace(name, replacement)
    names: dict = {}
    exec(compile(program, "inception_jax/README.md", "exec"), names)
    assert names["pooled"].ndim == 2
    logits = np.asarray(names["model"].apply(names["variables"], names["images"])[0][0])
    assert names["top"] == ["abcde"[i] for i in np.argsort(-logits)[:3]]
    assert np.abs(names["saliency"]).max() > 0
    assert np.isfinite(names["slope"]).all()
    copy, variables = load("models/copy")
    assert copy.card == CARD
    jax.tree.map(np.testing.assert_array_equal, variables, names["variables"])
    # Endpoints that the table for timm and Keras users names exist.
    endpoints = set(re.findall(r"`endpoints\[\"(\w+)\"\]", API))
    assert {"Mixed_6a", "PrePool", "PreLogitsFlatten"} == endpoints
    assert endpoints <= set(names["endpoints"])
    # So do the classifier and the dtype that it names.
    assert variables["params"]["Logits"].keys() == {"kernel", "bias"}
    half = copy.network.clone(dtype=jnp.bfloat16)
    shape = jax.eval_shape(half.apply, variables, names["images"])[1]["PrePool"]
    assert shape.dtype == jnp.bfloat16


def test_the_api_page_names_every_public_name():
    for name in inception_jax.__all__:
        assert re.search(rf"\b{name}\b", API), name


def test_numbers_of_the_readme_are_those_of_the_results():
    """Others are checked in tests/experiments: the main finding and the speeds."""
    rows = re.findall(r"^\| `(\w+)`.* \| ([\d,]+) \| ([\d.]+) G \|$", README, re.M)
    drawn = [name for name in SPECS if name != "inception_resnet_small"]
    assert [name for name, *_ in rows] == drawn
    counts = {
        name: figures
        for (name, options, size), figures in EXPECTED.values()
        if not options and size == SPECS[name].image_shape[0]
    }
    for name, params, macs in rows:
        assert params == f"{counts[name].gamma_beta:,}"
        assert macs == f"{counts[name].macs / 1e9:.1f}"
