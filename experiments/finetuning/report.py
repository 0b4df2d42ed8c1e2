# SPDX-License-Identifier: Apache-2.0
"""The best model of a fine-tuning run, and a report on its mistakes.

WORKDIR/model              the model folder, for `inception_jax.load`
WORKDIR/report/index.html  the report, a single file
WORKDIR/report/*.png       its figures
WORKDIR/report/*.csv       precision and recall of each class; prediction for each image
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
MAX_MISTAKES = 24  # as many images as are legible on a page
MAX_PAIRS = 20  # pairs of confused classes


def write_best_model(config: RunConfig) -> tuple[Model, dict]:
    """Write WORKDIR/model from the best evaluation whose checkpoint still exists.

    Raises ValueError if there is none, CheckpointError if the checkpoint is damaged or the
    disk is full.
    """
    saved = Checkpoints(config.workdir / run_folder.CHECKPOINTS_FOLDER).steps()
    evaluations = run_folder.read_evaluations(config.workdir)
    evaluations = [line for line in evaluations if line["step"] in saved]
    if not evaluations:
        raise ValueError(f"{config.workdir} holds no checkpoint that was evaluated.")
    step = evaluations[best_evaluation(evaluations)]["step"]
    model, variables = load(config.workdir, step=step)
    folder = config.workdir / MODEL
    if (folder / model_folder.CARD_FILE).exists():  # the run was complete before
        shutil.rmtree(folder)
    save(folder, model.card, variables)
    return model, variables


def write_report(config: RunConfig, model: Model, variables: dict) -> None:
    """Write WORKDIR/report and print a summary."""
    source = open_source(config.data, config.eval_split, config.data_dir)
    predictions = predict(model, variables, source, config)
    correct = int(np.sum(predictions.predicted == predictions.labels))
    worst = predictions.mistakes[:MAX_MISTAKES]
    folder = config.workdir / REPORT
    folder.mkdir(exist_ok=True)
    channels = model.card.preprocess.image_shape[2]
    figures = {
        "confusion": confusion_figure(predictions.confusion, predictions.class_names),
        "mistakes": mistakes_figure(predictions, source, worst, channels),
    }
    classes = _class_rows(predictions)
    _write_csv(folder / "classes.csv", classes)
    _write_csv(folder / "predictions.csv", _image_rows(predictions))
    content = {
        "data": config.data,
        "split": config.eval_split,
        "first_weights": config.first_weights,
        "network": config.network,
        "step": model.card.origin.step,
        "correct": correct,
        "count": len(predictions.names),
        "evaluations": len(run_folder.read_evaluations(config.workdir)),
        "mistakes": [_mistake_row(predictions, i) for i in worst],
        "pairs": _pair_rows(predictions.confusion, predictions.class_names),
        "classes": classes,
        "figures": {
            name: _save_if_drawn(figure, folder / f"{name}.png")
            for name, figure in figures.items()
        },
    }
    templates = template_environment(Path(__file__).parent, one_line)
    page = templates.get_template("report.html.jinja").render(content)
    (folder / "index.html").write_text(page, encoding="utf-8")
    accuracy = f"{correct / len(predictions.names):.2%} of {len(predictions.names)} images"
    print(
        f"Accuracy at step {model.card.origin.step}: {accuracy}.\n"
        f"Model: {printable(config.workdir / MODEL)}\n"
        f"Report: {printable(folder / 'index.html')}"
    )


def _save_if_drawn(figure: Figure | None, path: Path) -> dict[str, Any]:
    path.unlink(missing_ok=True)  # of an earlier report
    return {} if figure is None else save_figure(figure, path)


def _class_rows(predictions: Predictions) -> list[dict[str, Any]]:
    """Return precision and recall of each class, None where they are undefined."""
    confusion = predictions.confusion
    rows = []
    for i, name in enumerate(predictions.class_names):
        correct = confusion[i, i]
        count, predicted = int(confusion[i].sum()), int(confusion[:, i].sum())
        precision = correct / predicted if predicted else None
        recall = correct / count if count else None
        row = {"number": i, "class": name, "count": count, "predicted": predicted}
        rows.append(row | {"precision": precision, "recall": recall})
    return rows


def _image_rows(predictions: Predictions) -> Iterable[dict[str, Any]]:
    names = predictions.class_names
    for i, image in enumerate(predictions.names):
        label, predicted = predictions.labels[i], predictions.predicted[i]
        yield {
            "image": image,
            "class": names[label],
            "predicted": names[predicted],
            "probability": f"{predictions.probabilities[i, predicted]:.4f}",
            "probability of its class": f"{predictions.probabilities[i, label]:.4f}",
        }


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with control characters escaped, so that names cannot break a line."""
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        for row in rows:
            escaped = {k: one_line(x) if isinstance(x, str) else x for k, x in row.items()}
            writer.writerow(escaped)


def _mistake_row(predictions: Predictions, i: int) -> dict[str, Any]:
    label, predicted = predictions.labels[i], predictions.predicted[i]
    return {
        "image": predictions.names[i],
        "class": predictions.class_names[label],
        "predicted": predictions.class_names[predicted],
        "probability": predictions.probabilities[i, predicted],
        "true_probability": predictions.probabilities[i, label],
    }


def _pair_rows(
    confusion: Int[np.ndarray, "k k"], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the pairs of classes that are confused most often."""
    mistakes = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:MAX_PAIRS]
    rows = []
    for position in order:
        i, j = np.unravel_index(position, mistakes.shape)
        if mistakes[i, j]:
            row = {"class": names[i], "predicted": names[j]}
            rows.append(row | {"count": mistakes[i, j], "of": confusion[i].sum()})
    return rows
