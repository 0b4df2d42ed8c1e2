# SPDX-License-Identifier: Apache-2.0
"""What the README shows is what runs."""

import importlib
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simplejpeg
import tyro

from experiments import run
from experiments.networks import RECIPES
from experiments.residual_scaling import imagenet
from inception_jax.cli import plan as cli_plan
from inception_jax.cli.main import main
from inception_jax.config import PreprocessSpec
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.zoo import SPECS
from inception_jax.training.fit import fit
from inception_jax.weights.model import Model, load, save
from inception_jax.weights.model_folder import Card, Origin
from tests.models.tiny import random_variables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CARD = Card("tiny", PreprocessSpec((8, 8, 1)), tuple("abcde"), Origin("timm", "file"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def variables_of(card: Card) -> dict:
    return random_variables(
        Model(card).network, jnp.zeros((1, *card.preprocess.image_shape))
    )


def test_the_two_commands_are_where_the_gate_looks_for_them():
    for marker, end in (
        ("run", 'pip install -e ".[study]" && python -m experiments.residual_scaling'),
        ("test", 'pip install -e ".[test]" && pytest'),
    ):
        assert README.count(f"<!-- {marker} command -->\n```sh\n") == 1
        line = README.split(f"<!-- {marker} command -->\n```sh\n")[1].split("\n")[0]
        assert line == f"python3 -m venv .venv && . .venv/bin/activate && {end}"
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_package_runs(tiny, photos, tmp_path, monkeypatch, capsys):
    """On runs, a model and photos of the names that it speaks of; `plan` takes minutes and
    is only parsed; the first day is test_first_day.py's."""
    monkeypatch.chdir(tmp_path)
    (photos / "train").rename(tmp_path / "classes")
    shutil.rmtree(photos)
    (tmp_path / "classes").rename(photos)
    save(tmp_path / "models" / "v4", CARD, variables_of(CARD))
    for name, seed in (("digits", 0), ("other", 1)):
        fit(replace(tiny, workdir=Path("runs") / name, steps=1, seed=seed))
    capsys.readouterr()
    first_day = README.split("<!-- first day -->\n```sh\n")[1].split("```")[0]
    lines = [
        line for block in blocks("sh") if block != first_day for line in block.splitlines()
    ]
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in lines
        if line.startswith("inception-jax ")
    ]
    assert len(commands) >= 11
    planned = []
    monkeypatch.setattr(cli_plan, "make_plan", lambda *a, **_: planned.append(a))
    monkeypatch.setattr(cli_plan, "describe", lambda _: "")
    for command in commands:
        status = 0
        try:
            main(command)
        except SystemExit as end:
            status = end.code
        # Whether data is ready, and whether runs differ, is the answer.
        answers = command[:2] in (["data", "check"], ["ckpt", "diff"])
        assert status in ((0, 1) if answers else (0,)), command
        assert capsys.readouterr().out
    ((config, topology),) = planned
    assert (config.network, topology) == ("inception_resnet_v2", "v5e:4x4")


def test_every_command_of_an_experiment_is_understood():
    """Recipes, folders and options exist; tests/experiments runs them, on small data."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    parsed = []
    for command in commands:
        if command[:2] != ["python", "-m"]:
            continue
        module, arguments = command[2], command[3:]
        if module == "experiments.run":
            if arguments != ["--help"]:
                parsed.append(run.parse(arguments))
        elif module == "experiments.launch.local":
            assert arguments[-1] in RECIPES
        elif module == "experiments.residual_scaling.imagenet":
            assert not arguments or arguments[0] in imagenet.RUNS
        else:
            commands_of = {"residual_scaling": ".study", "architecture": ".__main__"}
            module += commands_of.get(module.removeprefix("experiments."), "")
            experiment = importlib.import_module(module)
            parsed.append(tyro.cli(experiment.Options, args=arguments))
    assert len(parsed) >= 12


def test_files_and_names_of_the_table_exist():
    rows = re.findall(
        r"^\| [^|]+ \| \[[^]]+\]\(([^)]+)\) \| (.+) \|$", README, re.MULTILINE
    )
    assert len(rows) >= 10
    for path, names in rows:
        assert (ROOT / path).exists(), path
        for name in re.findall(r"`(\w+)`", names):
            assert name in (ROOT / path).read_text(), f"{name} is not in {path}"


@pytest.mark.slow
def test_the_example_runs():
    example = blocks("python")[0]
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 1000)
    assert names["endpoints"]["Mixed_6a"].shape == (1, 17, 17, 1088)


def test_the_first_hour_runs(tiny, tmp_path, monkeypatch):
    """Of a timm or Keras user, on a model folder and a photo of the names it speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path / "models"))
    save(tmp_path / "models" / "v4", CARD, variables_of(CARD))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Path("photo.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    names: dict = {}
    exec(compile(blocks("python")[1], "README.md", "exec"), names)
    logits = np.asarray(names["logits"][0])
    assert names["best"] == ["abcde"[i] for i in np.argsort(-logits)[:3]]
    assert np.abs(names["saliency"]).max() > 0
    again, variables = load("copy")
    assert again.card == CARD
    jax.tree.map(np.testing.assert_array_equal, variables, names["variables"])
    # What the table names is there.
    named = set(re.findall(r"`endpoints\[\"(\w+)\"\]", README))
    assert {"PrePool", "PreLogitsFlatten"} <= named
    assert named - set(receptive_fields(SPECS["inception_v4"])) <= set(names["endpoints"])
    assert variables["params"]["Logits"].keys() == {"kernel", "bias"}
    half = again.network.clone(dtype=jnp.bfloat16)
    shape = jax.eval_shape(half.apply, variables, names["images"])[1]["PrePool"]
    assert shape.dtype == jnp.bfloat16
