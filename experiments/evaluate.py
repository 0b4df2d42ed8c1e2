# SPDX-License-Identifier: Apache-2.0
"""Evaluate a model or an ensemble: `python -m experiments.evaluate MODEL...`.

A model is a run folder, a model folder such as `inception-jax weights import` writes, or
the name of a model. Every image is evaluated with 1, 10, 12 or 144 crops, as in Tables 2 to
5: with the raw and the averaged weights of a run, or with published weights. For a single
model the command also checks that the moving averages of batch norm match the weights.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from inception_jax.cli.arguments import NEWEST, option
from inception_jax.data.batches import eval_batches
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source, Subset
from inception_jax.inference.batch_norm_modes import mode_gap
from inception_jax.inference.evaluate import (
    WEIGHT_KINDS,
    TrainedModel,
    evaluate,
    exclude_images,
    load_trained,
)
from inception_jax.runtime import compile_cache
from inception_jax.runtime.devices import all_devices, describe
from inception_jax.runtime.stopping import run_command
from inception_jax.storage.files import append_json_line
from inception_jax.storage.run_folder import (
    EVALUATIONS_FILE,
    code_version,
    package_versions,
    read_record,
)
from inception_jax.text import printable
from inception_jax.training.metrics import means
from inception_jax.weights.model import find_model
from inception_jax.weights.model_folder import is_model_folder

GAP_BATCHES = 8  # batches on which the two modes of batch norm are compared
MAX_GAP = 0.02  # loss of top-1 accuracy above which a warning is printed


@dataclass(frozen=True)
class Options:
    """Evaluate a model, or several models as an ensemble, and record the result."""

    # Run folders, model folders or names of models. The softmax outputs of several models
    # are averaged (Table 5).
    models: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="MODEL...", help_behavior_hint="(required)"),
    ]
    # Views of each image: the paper's single crop, ResNet's 10, the paper's 12 or
    # GoogLeNet's 144.
    crops: Literal["1", "10", "12", "144"] = "1"
    # TFDS name, folder:DIR or digits.
    data: Annotated[str | None, option("DATA", "that of the first run")] = None
    # Split or part of a split, such as eval[:1000].
    split: Annotated[str | None, option("SPLIT", "that of the first run, or eval")] = None
    # Folder of prepared data sets.
    data_dir: Annotated[str | None, option("DIR", "the first run's, or TFDS's")] = None
    # Step of the checkpoint to evaluate.
    step: Annotated[int | None, option("INT", NEWEST)] = None
    # File that lists images to leave out, one name or validation number per line, such as
    # ILSVRC2014_clsloc_validation_blacklist.txt for Table 2.
    exclude: Annotated[Path | None, option("FILE", "none")] = None
    # Views per batch over all devices; each device gets at least one image. Without a run,
    # also the number of images per batch in the comparison of the modes of batch norm.
    batch_size: int = 128
    # Whether an unreadable image is an error, or is skipped and listed.
    on_bad_image: Literal["error", "skip"] = "error"
    # File to append the result to; without a run the default is in the folder runs.
    out: Annotated[Path | None, option("FILE", f"RUN/{EVALUATIONS_FILE}")] = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("specify a run or model folder, such as runs/digits.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}.")
        if self.step is not None and len(self.models) > 1:
            raise ValueError(
                "--step needs a single run; an ensemble uses the newest checkpoint of each."
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def action() -> None:
        options = tyro.cli(Options, prog="python -m experiments.evaluate", args=arguments)
        compile_cache.enable()
        run(options)

    return run_command(
        "experiments.evaluate", action, if_interrupted="nothing was recorded"
    )


def run(options: Options) -> dict[str, Any]:
    """Evaluate, print the summary, append the record to the output file and return it."""
    devices = all_devices()
    folders = [find_model(path) for path in options.models]
    runs = [folder for folder in folders if not is_model_folder(folder)]
    out = options.out or (runs[0] if runs else Path("runs")) / EVALUATIONS_FILE
    if out.is_dir():
        raise ValueError(f"{out} is a directory; --out expects a file to append to.")
    excluded = read_exclusions(options.exclude)
    options = _with_defaults(options, runs)
    source = open_source(options.data, options.split, options.data_dir)
    source = exclude_images(source, excluded) if excluded else source
    models = [load_trained(folder, devices, options.step) for folder in folders]
    start = time.perf_counter()
    totals, skipped = _with_progress(options, models, source, devices)
    record = {
        "networks": [model.card.network for model in models],
        "runs": [str(folder) for folder in folders],
        "sources": [model.card.origin.source for model in models],
        "steps": [model.card.origin.step for model in models],
        "data": options.data,
        "split": options.split,
        "excluded": len(excluded),
        "skipped": skipped,
        "crops": int(options.crops),
        **totals,
        "seconds": round(time.perf_counter() - start, 2),
        "devices": describe(devices),
        "versions": package_versions(),
        "code": code_version(),
    }
    print(printable(summary(record)))
    out.parent.mkdir(parents=True, exist_ok=True)
    append_json_line(out, record)
    if len(models) == 1:
        size = read_record(runs[0]).config.batch_size if runs else options.batch_size
        print(compare_batch_norm_modes(models[0], source, devices, size))
    return record


def _with_defaults(options: Options, runs: Sequence[Path]) -> Options:
    """Return the options with missing data settings taken from the first run."""
    if runs:
        config = read_record(runs[0]).config
        return replace(
            options,
            data=options.data or config.data,
            split=options.split or config.eval_split,
            data_dir=options.data_dir or config.data_dir,
        )
    if not options.data:
        raise ValueError(
            f"{options.models[0]} is a model folder, which has no data of its own; specify "
            "data, for example --data imagenet2012 or --data folder:DIR."
        )
    return replace(options, split=options.split or "eval")


def _with_progress(
    options: Options, models: Sequence[TrainedModel], source: Source, devices: Sequence[Any]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    views = int(options.crops)
    batch_size = max(options.batch_size // views // len(devices), 1) * len(devices)
    with tqdm(total=len(source), unit="image", disable=None) as bar:
        return evaluate(
            models,
            source,
            views=views,
            batch_size=batch_size,
            devices=devices,
            on_bad_image=options.on_bad_image,
            on_batch=bar.update,
        )


def read_exclusions(path: Path | None) -> list[str]:
    """Return the distinct names or numbers in a file that has one on each line.

    Raises ValueError if the file does not exist or is empty.
    """
    if path is None:
        return []
    if not path.is_file():
        raise ValueError(f"{path} is not a file; --exclude expects a list of images.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(line for line in lines if line))
    if not names:
        raise ValueError(f"{path} lists no images to exclude.")
    return names


def summary(record: dict[str, Any]) -> str:
    """Describe an evaluation, with a line of error rates for each kind of weights."""
    models = []
    for name, source, step in zip(
        record["networks"], record["sources"], record["steps"], strict=True
    ):
        models.append(f"{name} ({source if step is None else f'step {step}'})")
    kinds = [kind for kind in WEIGHT_KINDS if kind in record]
    images = f"{int(record[kinds[0]]['count'])} images"
    if record["excluded"]:
        images += f", {record['excluded']} excluded"
    if record["skipped"]:
        images += f", {len(record['skipped'])} unreadable and skipped"
    crops = "1 crop" if record["crops"] == 1 else f"{record['crops']} crops"
    lines = [
        f"{' + '.join(models)} on {record['data']} {record['split']}: {images}, {crops}",
        f"{'weights':10}{'top-1 error':>14}{'top-5 error':>14}{'loss':>10}",
    ]
    for kind in kinds:
        mean = means(record[kind])
        lines.append(
            f"{kind:10}{1 - mean['top1']:14.2%}{1 - mean['top5']:14.2%}{mean['loss']:10.4f}"
        )
    return "\n".join(lines + [f"skipped: {name}" for name in record["skipped"]])


def compare_batch_norm_modes(
    trained: TrainedModel, source: Source, devices: Sequence[Any], batch_size: int
) -> str:
    """Compare both modes of batch norm; warn if averages lose more than `MAX_GAP`."""
    per_device = max(min(batch_size, len(source)) // len(devices), 1)  # as in training
    # Shuffled, since folders are sorted by class, and batches of one class have statistics
    # that are not typical.
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    all_batches = eval_batches(
        replace(source, examples=Subset(source.examples, order)),
        preprocess=trained.card.preprocess,
        batch_size=per_device * len(devices),
        on_bad_image="skip",  # `evaluate` has already raised the error
    )
    batches = [
        {"image": batch["image"], "label": batch["label"]}
        for batch in islice(all_batches, GAP_BATCHES)
        if batch["mask"].all()
    ]
    if not batches:
        return "Too few images to compare training and evaluation mode."
    advice = " these images"
    if trained.card.origin.source == "run":
        advice = "; recompute them: python -m experiments.recalibrate RUN --out DIR"
    lines = []
    for kind, variables in trained.variables.items():
        modes = mode_gap(trained.model, variables, batches, devices)
        averages, batch = modes["eval"], modes["train"]
        lines.append(
            f"{kind}: with moving averages loss {averages['loss']:.4f}, top-1 "
            f"{averages['top1']:.2%}; with statistics of batches of {per_device} loss "
            f"{batch['loss']:.4f}, top-1 {batch['top1']:.2%}"
        )
        gap = batch["top1"] - averages["top1"]
        if gap > MAX_GAP:
            lines.append(
                f"WARNING: {kind} weights lose {gap:.1%} of top-1 accuracy because their "
                f"moving averages of batch statistics do not fit{advice}."
            )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
