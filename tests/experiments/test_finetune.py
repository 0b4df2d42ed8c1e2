# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning from the command line: the run, its model and its report."""

import csv
import html
import io
import json
import shutil
import signal
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import inception_jax
from experiments import evaluate, finetune
from experiments.finetuning.figures import confusion_figure, drawable, mistakes_figure
from experiments.finetuning.predictions import Predictions
from inception_jax.config import PreprocessSpec
from inception_jax.data.source import Example, Source
from inception_jax.models.zoo import SPECS
from inception_jax.runtime.stopping import ExitStatus
from inception_jax.training.optimizer import CLASSIFIERS
from inception_jax.training.reporter import Reporter
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Origin
from tests.drills import state_hash
from tests.models.tiny import one_block, random_variables
from tests.processes import Processes
from tests.runs import records

# Names of folders that could break a page, a terminal or matplotlib.
HOSTILE = ("<script>alert(1)</script>", "$\\frac{1}{2}$", "\u732b \x1b[31m\nnew line")
SPEC = PreprocessSpec((16, 16, 3), 0.9, "keep", "bicubic", low=-0.5, high=2.0)
CARD = Card("tiny", SPEC, ("x", "y"), Origin("timm", "x.safetensors"), residual_scale=0.5)
# Four devices; two steps an epoch.
QUICK = ("--batch-size", "12", "--epochs", "3", "--evaluations", "3")


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model of two classes for 16x16 photos."""
    monkeypatch.setitem(SPECS, "tiny", one_block(image_shape=(16, 16, 3)))
    variables = random_variables(Model(CARD).network, np.zeros((1, 16, 16, 3), np.float32))
    save(tmp_path / "source", CARD, variables)
    return tmp_path / "source"


def command(photos: Path, source: Path, folder: Path, *options: str) -> list[str]:
    names = ("--data", f"folder:{photos}", "--from", str(source), "--workdir", str(folder))
    return [*names, *QUICK, *options]


def named(photos: Path, names: tuple[str, ...]) -> None:
    for split in ("train", "val"):
        for old, new in zip("ab", names, strict=True):
            (photos / split / old).rename(photos / split / new)


def test_from_a_folder_to_a_model_and_a_report(source, photos, tmp_path, capsys):
    """With a frozen body, hostile names, and a second start without the initial weights."""
    names = tuple(sorted(HOSTILE[1:]))
    named(photos, names)
    folder = tmp_path / "run"
    arguments = command(photos, source, folder, "--body-rate", "0")
    assert finetune.main(arguments) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    model, variables = inception_jax.load(folder / "model")
    assert model.card.class_names == names
    assert model.card.preprocess == SPEC
    assert (model.card.residual_scale, model.card.bn_scale) == (0.5, True)
    _, before = inception_jax.load(source)
    body = {n: x for n, x in variables["params"].items() if n not in CLASSIFIERS}
    jax.tree.map(
        np.testing.assert_array_equal,
        (body, variables["batch_stats"]),
        ({n: before["params"][n] for n in body}, before["batch_stats"]),
    )
    # The model and the report are those of the best evaluation.
    lines = records(folder, "eval")
    assert len(lines) == 3
    best = next(line for line in lines if line["step"] == model.card.origin.step)
    assert best["ema"]["top1_sum"] == max(line["ema"]["top1_sum"] for line in lines)
    with (folder / "report" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    right = sum(row["class"] == row["predicted"] for row in rows)
    assert right == best["ema"]["top1_sum"]
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert f"<strong>{right} of 8 images</strong>" in page
    count = len(records(folder, "eval"))
    assert f"the best of {count} evaluations" in page
    assert html.escape(names[0]) in page
    assert "\x1b" not in page
    assert page.count("data:image/png;base64,") == 1 + (right < 8)
    assert (folder / "report" / "confusion.png").read_bytes().startswith(b"\x89PNG")
    # A complete run changes nothing and needs only the data.
    shutil.rmtree(source)
    hashed, written = state_hash(folder), (folder / "model" / "model.json").read_bytes()
    assert finetune.main(arguments) == 0
    assert state_hash(folder) == hashed
    assert (folder / "model" / "model.json").read_bytes() == written
    # Evaluation on other classes is refused.
    named_back = photos.with_name("others")
    shutil.copytree(photos, named_back)
    for split in ("train", "val"):
        (named_back / split / names[1]).rename(named_back / split / "dog")
    assert evaluate.main([str(folder), "--data", f"folder:{named_back}"]) == 2
    assert "evaluate it on data with its own classes" in capsys.readouterr().err


def test_resuming_is_exact_and_needs_no_source(source, photos, tmp_path, monkeypatch):
    log, folders = Reporter.log, (tmp_path / "whole", tmp_path / "stopped")

    def log_and_raise(self: Reporter, step: int) -> None:
        log(self, step)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    assert finetune.main(command(photos, source, folders[0])) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "log", log_and_raise)
        patch.setattr(finetune, "LOG_EVERY", 2)
        assert finetune.main(command(photos, source, folders[1])) == ExitStatus.RUN_AGAIN
    assert not (folders[1] / "model").exists()
    shutil.rmtree(source)
    assert finetune.main(command(photos, source, folders[1])) == 0
    assert len({state_hash(folder) for folder in folders}) == 1
    assert records(folders[0], "eval") == records(folders[1], "eval")
    models = [inception_jax.load(folder / "model")[1] for folder in folders]
    jax.tree.map(np.testing.assert_array_equal, *models)
    # If the first of the three evaluations is the best, the model has its weights.
    metrics = folders[0] / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    evaluations = [line for line in lines if line["kind"] == "eval"]
    for line, right in zip(evaluations, (8.0, 2.0, 2.0), strict=True):
        line["ema"]["top1_sum"] = right
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert finetune.main(command(photos, source, folders[0])) == 0
    model, variables = inception_jax.load(folders[0] / "model")
    assert model.card.origin.step == evaluations[0]["step"] < evaluations[-1]["step"]
    _, expected = inception_jax.load(folders[0], step=evaluations[0]["step"])
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


@pytest.mark.slow
def test_two_hosts_tune_as_one(source, photos, tmp_path):
    """Process 0 reads the initial weights and writes the model and the report."""
    program = (
        "from experiments.finetune import main\n"
        "from inception_jax.runtime import hosts\n"
        "from inception_jax.models.zoo import SPECS\n"
        "from tests.models.tiny import one_block\n"
        "SPECS['tiny'] = one_block(image_shape=(16, 16, 3))\n"
        "hosts.exit_process(main())"
    )
    folders = tmp_path / "one", tmp_path / "two"
    assert finetune.main(command(photos, source, folders[0])) == 0
    (tmp_path / "logs").mkdir()
    arguments = ["-c", program, *command(photos, source, folders[1])]
    with Processes(arguments, 2, 2, tmp_path / "logs") as pair:
        assert pair.wait(300) == [0, 0], pair.said_by_all()
    assert "Report: " in pair.said(0)
    assert "Report: " not in pair.said(1)
    # Sums over two devices of two processes round differently from sums over four.
    models = [inception_jax.load(folder / "model")[1] for folder in folders]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, *models)
    pages = [(folder / "report" / "predictions.csv").read_text() for folder in folders]
    assert pages[0].count("\n") == pages[1].count("\n") == 9


def test_a_kept_head(source, photos, tmp_path, capsys):
    named(photos, ("x", "y"))
    arguments = command(photos, source, tmp_path / "run", "--head", "kept")
    config = finetune.parse(arguments)
    assert (config.head, config.first_weights) == ("kept", str(source))
    shutil.move(photos / "train" / "y", photos / "train" / "z")
    shutil.move(photos / "val" / "y", photos / "val" / "z")
    assert finetune.main(arguments) == 2
    assert "head kept needs the classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_become_a_run(source, photos, tmp_path):
    """The weights decide some settings; the others have defaults for small data sets."""
    parsed = finetune.parse(command(photos, source, tmp_path / "run"))
    assert (parsed.network, parsed.image_size, parsed.crop_fraction) == ("tiny", 16, 0.9)
    assert (parsed.aspect, parsed.resize) == ("keep", "bicubic")
    assert parsed.pixel_range == (-0.5, 2.0)
    assert (parsed.residual_scale, parsed.bn_scale, parsed.bn_frozen) == (0.5, True, True)
    assert parsed.eval_every == parsed.checkpoint_every == 1.0
    assert (parsed.patience, parsed.keep_checkpoints) == (5, 6)
    options = finetune.Options(f"folder:{photos}", str(source), tmp_path / "run")
    config = finetune.config_for(options)
    assert config.batch_size == 16  # of 24 images
    assert config.epochs == 200.0  # 300 steps
    assert config.augment.color
    assert config.optimizer.body_rate == 0.1
    other = finetune.config_for(replace(options, batch_norm="trained", image_size=32))
    assert (other.bn_frozen, other.bn_decay, other.image_size) == (False, 0.99, 32)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--from", "nowhere"), 2, "there is no model nowhere"),
        (("--data", "folder:nowhere"), 2, "does not exist"),
        (("--batch-size", "28"), 2, "at most the 24 training examples"),
        (("--batch-size", "6"), 2, "a multiple of 4"),
        (("--patience", "0"), 2, "patience must be more than 0, got 0."),
        (("--epochs", "nan"), 2, "epochs must be more than 0, got nan."),
        (("--learning-rate", "-1"), 2, "learning_rate must be > 0"),
        (("--image-size", "4"), 2, "at least 8x8 pixels"),
        (("--from", "DAMAGED"), 74, "is damaged"),
    ],
)
def test_mistakes_are_reported_before_anything_is_written(
    source, photos, tmp_path, capsys, options, status, message
):
    if options[1] == "DAMAGED":
        (source / "model.json").write_text("{}")
        options = ("--from", str(source))
    try:
        ended = finetune.main(command(photos, source, tmp_path / "run", *options))
    except SystemExit as exit:
        ended = exit.code
    assert ended == status
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_grey_images_are_not_coloured(tmp_path, monkeypatch, photos):
    monkeypatch.setitem(SPECS, "tiny", one_block())
    card = replace(CARD, preprocess=PreprocessSpec((8, 8, 1)))
    variables = random_variables(Model(card).network, np.zeros((1, 8, 8, 1), np.float32))
    save(tmp_path / "grey", card, variables)
    config = finetune.parse(command(photos, tmp_path / "grey", tmp_path / "run"))
    assert not config.augment.color
    assert config.augment.flip


def predictions(k: int, n: int) -> tuple[Predictions, Source]:
    rng = np.random.default_rng(0)
    names = tuple(f"{i} {HOSTILE[i % 3]} {'long ' * 9}" for i in range(k))
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + np.log(1.6 * k) * np.eye(k)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    pixels = rng.integers(0, 256, (n, 20, 30, 3), np.uint8)
    examples = [Example(image=x, label=0, name=f"{i}.jpg") for i, x in enumerate(pixels)]
    source = Source("folder:x", "eval", names, examples)
    files = tuple(example["name"] for example in examples)
    made = Predictions(names, files, np.arange(n), labels, probabilities)
    return made, source


@pytest.mark.parametrize("k", [2, 10, 100])
def test_figures_for_any_number_of_classes(k):
    """Every name can be drawn; a missing glyph would raise a warning."""
    made, source = predictions(k, 400)
    confusion = made.confusion
    assert confusion.sum() == 400
    assert confusion[1, 0] == np.sum((made.labels == 1) & (made.predicted == 0))
    mistakes = made.mistakes
    assert (made.labels != made.predicted).sum() == len(mistakes) > 0
    assert (np.diff(made.probabilities.max(axis=1)[mistakes]) <= 0).all()
    for figure in (
        confusion_figure(confusion, made.class_names),
        mistakes_figure(made, source, mistakes[:24], 3),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(io.BytesIO(), dpi=30)
    panels = figure.axes[: len(mistakes)]
    for axes, i in zip(panels, mistakes.tolist(), strict=False):
        (image,) = axes.get_images()
        np.testing.assert_array_equal(image.get_array(), source.examples[i]["image"])
        highest = made.probabilities[i].max()
        assert axes.get_title(loc="left").endswith(f"\nprobability {highest:.0%}")
    assert mistakes_figure(made, source, mistakes[:0], 3) is None


def test_names_in_figures():
    assert drawable("\u732b\x1b", 24) == "\N{WHITE SQUARE}\\x1b"
    assert drawable("a" * 30, 24) == "a" * 23 + "\N{HORIZONTAL ELLIPSIS}"
    assert drawable("Stra\u00dfe", 24) == "Stra\u00dfe"
