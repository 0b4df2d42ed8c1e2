# SPDX-License-Identifier: Apache-2.0
"""The best model of a run as a folder, and what it gets wrong: tables and two pictures.

WORKDIR/model              what `inception_jax.load` takes
WORKDIR/report/index.html  one page that loads nothing
WORKDIR/report/*.png       its pictures
WORKDIR/report/*.csv       precision and recall of each class; every picture's prediction
"""

import csv
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from experiments.finetuning.figures import confusion_figure, mistakes_figure
from experiments.finetuning.predictions import Predictions, predict
from experiments.reports import save_figure, template_environment
from inception_jax.config import RunConfig
from inception_jax.data.open_source import open_source
from inception_jax.storage import run_folder
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.text import one_line, printable
from inception_jax.training.metrics import best_evaluation
from inception_jax.weights import model_folder
from inception_jax.weights.model import Model, load, save

MODEL, REPORT = "model", "report"
MISTAKES = 24  # as many as a page shows at a size to see them
PAIRS = 20  # of classes that are taken for one another


def write_best_model(config: RunConfig) -> tuple[Model, dict]:
    """WORKDIR/model: the best evaluation of those whose checkpoints are there.

    Raises ValueError where there is none, CheckpointError where it is damaged or there is
    no room.
    """
    there = Checkpoints(run_folder.checkpoints_path(config.workdir)).steps()
    lines = run_folder.evaluations(config.workdir)
    if not (lines := [line for line in lines if line["step"] in there]):
        raise ValueError(f"{config.workdir} holds no checkpoint that was evaluated.")
    model, variables = load(config.workdir, step=lines[best_evaluation(lines)]["step"])
    folder = config.workdir / MODEL
    if (folder / model_folder.CARD_FILE).exists():  # of an earlier end of this run
        shutil.rmtree(folder)
    save(folder, model.card, variables)
    return model, variables


def write_report(config: RunConfig, model: Model, variables: dict) -> None:
    """WORKDIR/report, and a summary on standard output."""
    source = open_source(config.data, config.eval_split, config.data_dir)
    predictions = predict(model, variables, source, config)
    folder = config.workdir / REPORT
    folder.mkdir(exist_ok=True)
    channels = model.card.preprocess.image_shape[2]
    figures = {
        "confusion": confusion_figure(predictions.confusion, predictions.class_names),
        "mistakes": mistakes_figure(
            predictions, source, predictions.mistakes[:MISTAKES], channels
        ),
    }
    pictures = {
        name: _save_figure(figure, folder / f"{name}.png")
        for name, figure in figures.items()
    }
    classes = _classes(predictions)
    _write_csv(folder / "classes.csv", classes)
    _write_csv(folder / "predictions.csv", _each(predictions))
    content = _content(config, model, predictions) | {
        "classes": classes,
        "pictures": pictures,
    }
    page = template_environment(Path(__file__).parent, one_line).get_template(
        "report.html.jinja"
    )
    (folder / "index.html").write_text(page.render(content), encoding="utf-8")
    right = np.mean(predictions.predicted == predictions.labels)
    print(
        f"Step {model.card.origin.step} is the best: {right:.2%} of "
        f"{len(predictions.names)} pictures right.\n"
        f"Model: {printable(config.workdir / MODEL)}\n"
        f"Report: {printable(folder / 'index.html')}"
    )


def _save_figure(figure: Figure | None, path: Path) -> dict[str, Any]:
    """Write a picture, if there is one; what the page says of it."""
    path.unlink(missing_ok=True)
    return {} if figure is None else save_figure(figure, path)


def _classes(predictions: Predictions) -> list[dict[str, Any]]:
    """Precision and recall of each class; None where nothing was predicted or is there."""
    confusion = predictions.confusion
    there, said = confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    return [
        {
            "number": i,
            "class": name,
            "count": there[i],
            "predicted": said[i],
            "precision": confusion[i, i] / said[i] if said[i] else None,
            "recall": confusion[i, i] / there[i] if there[i] else None,
        }
        for i, name in enumerate(predictions.class_names)
    ]


def _each(predictions: Predictions) -> Iterable[dict[str, Any]]:
    names = predictions.class_names
    for i, picture in enumerate(predictions.names):
        label, said = predictions.labels[i], predictions.predicted[i]
        yield {
            "image": picture,
            "class": names[label],
            "predicted": names[said],
            "probability": f"{predictions.probabilities[i, said]:.4f}",
            "probability of its class": f"{predictions.probabilities[i, label]:.4f}",
        }


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Names as they may be shown: no line, and no terminal, is broken by one."""
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            shown = {k: one_line(x) if isinstance(x, str) else x for k, x in row.items()}
            writer.writerow(shown)


def _content(config: RunConfig, model: Model, predictions: Predictions) -> dict[str, Any]:
    right = int(np.sum(predictions.predicted == predictions.labels))
    return {
        "data": config.data,
        "split": config.eval_split,
        "first_weights": config.first_weights,
        "network": config.network,
        "step": model.card.origin.step,
        "right": right,
        "count": len(predictions.names),
        "evaluations": len(run_folder.evaluations(config.workdir)),
        "mistakes": [_mistake(predictions, i) for i in predictions.mistakes[:MISTAKES]],
        "pairs": _pairs(predictions.confusion, predictions.class_names),
    }


def _mistake(predictions: Predictions, i: int) -> dict[str, Any]:
    label, said = predictions.labels[i], predictions.predicted[i]
    return {
        "image": predictions.names[i],
        "class": predictions.class_names[label],
        "predicted": predictions.class_names[said],
        "probability": predictions.probabilities[i, said],
        "own": predictions.probabilities[i, label],
    }


def _pairs(confusion: Int[np.ndarray, "k k"], names: Sequence[str]) -> list[dict[str, Any]]:
    """Classes that are most often taken for another."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order]
    return [
        {"class": names[i], "predicted": names[j], "count": wrong[i, j], "of": sum_}
        for i, j in pairs
        if wrong[i, j]
        for sum_ in [confusion[i].sum()]
    ]
