# SPDX-License-Identifier: Apache-2.0
"""What the README shows is what runs."""

import importlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import tyro

from experiments import run
from experiments.networks import RECIPES
from experiments.residual_scaling import imagenet
from inception_jax import cli_plan
from inception_jax.cli import main
from inception_jax.fit import fit

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_two_commands_are_where_the_gate_looks_for_them():
    for marker, end in (
        ("run", 'pip install -e ".[study]" && python -m experiments.residual_scaling'),
        ("test", 'pip install -e ".[test]" && pytest'),
    ):
        assert README.count(f"<!-- {marker} command -->\n```sh\n") == 1
        line = README.split(f"<!-- {marker} command -->\n```sh\n")[1].split("\n")[0]
        assert line == f"python3 -m venv .venv && . .venv/bin/activate && {end}"
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


def test_every_command_of_the_package_runs(tiny, tmp_path, monkeypatch, capsys):
    """On runs of the names that it speaks of; `plan` takes minutes and is only parsed."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("digits", 0), ("other", 1)):
        fit(replace(tiny, workdir=Path("runs") / name, steps=1, seed=seed))
    capsys.readouterr()
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in lines
        if line.startswith("inception-jax ")
    ]
    assert len(commands) >= 8
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
            study = module == "experiments.residual_scaling"
            experiment = importlib.import_module(module + ".study" if study else module)
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
    (example,) = blocks("python")
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 1000)
    assert names["endpoints"]["Mixed_6a"].shape == (1, 17, 17, 1088)
