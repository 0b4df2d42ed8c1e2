# SPDX-License-Identifier: Apache-2.0
"""The command lines of training and evaluation, from a recipe to the paper's tables."""

import random
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import accuracy, curves, evaluate, recalibrate, run
from experiments.networks import RECIPES
from inception_jax.config import RunConfig
from inception_jax.inference.batch_norm_modes import recalibrate_statistics
from inception_jax.inference.evaluate import load_trained
from inception_jax.models.zoo import SPECS, get_spec
from inception_jax.storage.files import read_json_lines
from inception_jax.storage.run_folder import read_record
from inception_jax.weights.model import Model, load, save
from tests.models.tiny import one_block
from tests.runs import CONFIG, records

QUICK = ("--batch-size", "32", "--steps", "2", "--log-every", "1")


@pytest.fixture
def tiny_recipe(monkeypatch: pytest.MonkeyPatch, data_dir: str) -> tuple[str, ...]:
    """Replace every network of the paper by a tiny one for 16x16 photos."""
    for name in RECIPES:
        if name in SPECS:
            spec = one_block(image_shape=(16, 16, 3), num_classes=1000)
            monkeypatch.setitem(SPECS, name, spec)
    return ("--data-dir", data_dir)


def test_the_imagenet_recipe_without_tensorflow(tiny_recipe, tmp_path):
    """imagenet2012 in the format of TFDS, with fewer images."""
    folder = tmp_path / "run"
    size = ("--batch-size", "8", "--steps", "3", "--log-every", "1")
    command = ["inception_v4", *tiny_recipe, "--workdir", str(folder), *size]
    assert run.main(command) == 0
    assert "tensorflow" not in sys.modules
    record = read_record(folder)
    assert record.config.dtype == "bfloat16"
    assert record.config.augment.color
    assert len(record.class_names) == 1000
    assert record.class_names[0] == "n01440764"
    assert [line["count"] for line in records(folder, "train")] == [8.0] * 3
    assert records(folder, "eval")[-1]["ema"]["count"] == 8.0
    assert evaluate.main([str(folder), "--crops", "12"]) == 0
    (line,) = read_json_lines(folder / "evaluations.jsonl")
    assert (line["crops"], line["raw"]["count"], line["steps"]) == (12, 8.0, [3])


def test_a_folder_of_images_to_the_tables(tiny_recipe, photos, tmp_path, capsys):
    """Two networks, an ensemble, excluded images, tables and curves."""
    names = ("inception_v4", "inception_resnet_v2")
    runs = [str(tmp_path / name) for name in names]
    for name, folder in zip(names, runs, strict=True):
        data = ("--data", f"folder:{photos}", "--workdir", folder)
        assert run.main([name, *data, "--batch-size", "8", "--steps", "4"]) == 0
        assert evaluate.main([folder]) == 0
    out = tmp_path / "new" / "ensembles.jsonl"
    ensemble = [runs[0], *[runs[1]] * 3, "--crops", "144", "--out", str(out)]
    assert evaluate.main(ensemble) == 0
    (line,) = read_json_lines(out)
    assert line["networks"] == ["inception_v4", *["inception_resnet_v2"] * 3]
    assert line["raw"]["count"] == line["ema"]["count"] == 8
    listed = tmp_path / "list.txt"
    listed.write_text("a0.jpg\n\nb3.jpg\na0.jpg\n")
    assert evaluate.main([runs[0], "--exclude", str(listed)]) == 0
    line = read_json_lines(Path(runs[0]) / "evaluations.jsonl")[-1]
    assert (line["excluded"], line["ema"]["count"]) == (2, 6)
    table = tmp_path / "accuracy.md"
    assert accuracy.main([*runs, str(out), "--out", str(table)]) == 0
    text = table.read_text()
    error = 100 * (1 - line["ema"]["top1_sum"] / 6)
    assert f"| Inception-v4 | 20.0 | 5.0 | {error:.2f} |" in text
    assert re.search(r"3 x Inception-ResNet-v2 \| 16.5 \| 3.1 \| \d", text)
    assert "| Inception-v3 | 21.2 | 5.6 | not run | not run | 0 |" in text
    assert "other data, not to be compared" in text
    picture = tmp_path / "curves.png"
    assert curves.main([*runs, "--out", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "top-1 error" in said
    assert "with moving averages loss" in said


def test_recalibration_makes_a_run_of_its_own(tiny_recipe, tmp_path, capsys, monkeypatch):
    made = []

    def spy(model: Model, variables: dict, *rest: Any) -> dict:
        made.append((variables, recalibrate_statistics(model, variables, *rest)))
        return made[-1][1]

    monkeypatch.setattr(recalibrate, "recalibrate_statistics", spy)
    folder, new = str(tmp_path / "run"), str(tmp_path / "new")
    command = ["digits", *tiny_recipe, "--workdir", folder, *QUICK, "--image-size", "16"]
    # The moving averages hardly differ from their initial values.
    assert run.main([*command, "--augment.no-crop", "--bn-decay", "0.99999"]) == 0
    assert recalibrate.main([folder, "--out", new, "--batches", "4"]) == 0
    assert read_record(Path(new)).config.workdir == Path(new)
    # Each kind of weights has its own averages.
    model = load_trained(Path(new), jax.devices())
    for weights, (variables, stats) in zip(("raw", "ema"), made, strict=True):
        expected = {"params": variables["params"], "batch_stats": stats}
        jax.tree.map(np.testing.assert_array_equal, model.variables[weights], expected)
    capsys.readouterr()
    losses = []
    for name in (folder, new):
        assert evaluate.main([name]) == 0
        said = capsys.readouterr().out
        pair = re.search(r"raw: with moving averages loss ([\d.]+).* loss ([\d.]+)", said)
        losses.append([float(loss) for loss in pair.groups()])
    assert losses[0][1] == pytest.approx(losses[1][1], rel=1e-3)
    apart = [abs(np.log(a / b)) for a, b in losses]
    assert apart[1] < 0.5 * apart[0]
    with pytest.raises(SystemExit, match="2"):
        recalibrate.main([folder, "--out", new])
    # The message is wrapped, depending on the length of the path.
    assert "already exists; choose another --out" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["inception_v4", "--batch-size", "0"], "batch_size must be 1 or more, got 0"),
        (["inception_v4", "--batch-sise", "8"], "--batch-size"),
        (["inception_v5"], "inception_v4"),
        (["digits", "--data", "digitz"], "digitz"),
        (["digits", "--data", "folder:/nowhere"], "/nowhere"),
        (["digits", "--image-size", "20"], "at least 75x75 pixels, got 20x20"),
        (["digits", "--aux-head"], "aux_head=True needs a 17x17 feature map"),
        (["digits", "--augment.color"], "augment.color must be False"),
        (["digits", "--parallel.bn-sync", "3"], "bn_sync=3 does not divide the 4 devices"),
        (["digits", "--residual-scale", "2"], "residual_scale must be in [0, 1], got 2.0"),
        (["digits", "--optimizer.learning-rate", "0"], "learning_rate must be > 0"),
        (["digits", "--workers", "-1"], "workers must be 0 or more, got -1"),
    ],
)
def test_bad_options_of_a_run(tmp_path, data_dir, capsys, command, message):
    """One sentence, status 2, and nothing is written."""
    folder = tmp_path / "run"
    if "--augment.color" in command:
        command = [*command, "--network", "inception_resnet_small", "--image-size", "8"]
    places = () if len(command) == 1 else ("--data-dir", data_dir, "--workdir", str(folder))
    try:
        status = run.main([*command, *places])
    except SystemExit as exit:  # tyro's own errors
        status = exit.code
    assert status == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert not folder.exists()


@pytest.mark.parametrize("seed", range(40))
def test_nonsense_on_the_command_line(seed, capsys):
    """A configuration, or status 2 with a message; nothing else."""
    rng = random.Random(seed)
    options = [
        *("--batch-size", "--epochs", "--steps", "--accumulate", "--seed", "--eval-every"),
        *("--bn-decay", "--dropout-rate", "--residual-scale", "--dtype", "--image-size"),
        *("--optimizer.clip-norm", "--loss.label-smoothing", "--parallel.bn-sync"),
        *("--augment.area", "--augment.flip", "--workers", "--on-nonfinite", "--nonsense"),
    ]
    values = ["0", "1", "-1", "0.5", "1e400", "nan", "None", "x", "", "ü", "2", "3 4"]
    command = [rng.choice([*RECIPES, "digitz", ""])]
    for option in rng.sample(options, rng.randint(0, 3)):
        command += [option, *rng.choices(values, k=rng.randint(0, 2))]
    try:
        run.parse(command)
    except ValueError as error:
        said = str(error)
        assert said.endswith(".")
    except SystemExit as exit:
        status = exit.code
        assert (status, bool(capsys.readouterr().err)) == (2, True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir) -> Path:
    """A folder with a run of two steps and its model folder."""
    from inception_jax.training.fit import fit

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SPECS, "tiny", replace(one_block(), dropout_rate=0.2))
        fit(replace(CONFIG, data_dir=data_dir, workdir=folder / "run", steps=2))
        model, variables = load(folder / "run")
        save(folder / "model", model.card, variables)
    return folder


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "specify a run or model folder"),
        (["nowhere"], "there is no model nowhere: expected a folder"),
        (["MODEL"], "model is a model folder, which has no data of its own; specify"),
        (
            ["MODEL", "--data", "digits", "--step", "2"],
            "weights and step can be chosen only for a run",
        ),
        (["MODEL", "--data", "synthetic"], "evaluate it on data with its own classes"),
        (["RUN", "--exclude", "nowhere"], "nowhere is not a file; --exclude expects"),
        (["RUN", "--step", "5"], "holds no checkpoint of step 5; there are: 2"),
        (["RUN", "RUN", "--step", "2"], "--step needs a single run"),
        (["RUN", "--batch-size", "0"], "batch_size must be 1 or more"),
        (["RUN", "--split", "tests"], "unknown or empty split 'tests' of 'digits'"),
        (["RUN", "--data", "synthetic"], "evaluate it on data with its own classes"),
        (["RUN", "--crops", "11"], "144"),
        (["RUN", "--out", "RUN"], "run is a directory; --out expects a file"),
    ],
)
def test_bad_options_of_an_evaluation(
    tiny, trained, tmp_path, monkeypatch, capsys, command, message
):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(trained / "run"), "MODEL": str(trained / "model")}
    try:
        status = evaluate.main([places.get(x, x) for x in command])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert not [*tmp_path.rglob("evaluations.jsonl"), *trained.rglob("evaluations.jsonl")]


def test_a_model_folder_has_the_accuracy_of_its_run(tiny_recipe, tmp_path, monkeypatch):
    """Averaged weights, saved as a model folder and found by name, give equal results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path / "models"))
    size = ("--network", "inception_resnet_v1", "--image-size", "16", *QUICK)
    command = ["digits", *tiny_recipe, "--workdir", "run", *size, "--residual-scale", "0.3"]
    assert run.main([*command, "--optimizer.ema-decay", "0.5"]) == 0
    model, variables = load("run")
    save(tmp_path / "models" / "mine", model.card, variables)
    before = sorted((tmp_path / "models").rglob("*"))
    data = ("--data", "digits", *tiny_recipe)
    assert evaluate.main(["run", *data]) == 0
    assert evaluate.main(["mine", *data]) == 0
    assert evaluate.main(["run", "mine", "--crops", "10"]) == 0
    assert before == sorted((tmp_path / "models").rglob("*"))
    (of_mine,) = read_json_lines(tmp_path / "runs" / "evaluations.jsonl")
    of_run, of_both = read_json_lines(tmp_path / "run" / "evaluations.jsonl")
    assert of_mine["ema"] == of_run["ema"] != of_run["raw"]
    assert "raw" not in of_mine
    assert of_mine["steps"] == [2]
    assert of_both["raw"]["count"] == of_both["ema"]["count"] == 297
    table = tmp_path / "table.md"
    for source in ("run", "runs/evaluations.jsonl"):
        assert accuracy.main([source, "--out", str(table)]) == 0
        text = table.read_text()
        error = 100 * (1 - of_run["ema"]["top1_sum"] / 297)
        assert f"| Inception-ResNet-v1 | 21.3 | 5.5 | {error:.2f} |" in text


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name):
    """Each docstring has all entries and the command of the recipe."""
    recipe = RECIPES[name]
    for word in ("Command", "Data", "Hardware", "Cost", "Paper", "Ours"):
        assert re.search(rf"^{word}\s", recipe.__doc__, re.MULTILINE), word
    assert f"experiments.run {name}" in recipe.__doc__
    config = run.parse([name])
    assert config == replace(recipe.CONFIG, workdir=Path("runs") / name)
    get_spec(config.network)


def test_imagenet_recipes_follow_the_paper():
    """Only the network, the epochs and bfloat16 differ from the defaults."""
    for name in set(RECIPES) - {"digits"}:
        config, default = RECIPES[name].CONFIG, RunConfig()
        changed = {
            field.name
            for field in fields(RunConfig)
            if getattr(config, field.name) != getattr(default, field.name)
        }
        assert config.network == name
        assert changed <= {"network", "epochs", "dtype"}


@pytest.mark.parametrize("module", ["run", "evaluate", "recalibrate", "accuracy", "curves"])
def test_help(module):
    command = [sys.executable, "-m", f"experiments.{module}", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"python -m experiments.{module}" in result.stdout
