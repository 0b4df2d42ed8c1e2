# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.evaluate MODEL...`: accuracy of a model, or of an ensemble.

A model is a run, a model folder such as `inception-jax weights import` makes, or its name.
A run's raw and averaged weights side by side, or the published ones, over every image, with
1, 10, 12 or 144 crops as in Tables 2 to 5; and whether batch norm's moving averages fit.
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

from experiments.command import run_command
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
from inception_jax.runtime.hardware import describe
from inception_jax.runtime.parallel import all_devices
from inception_jax.storage.jsonl import append_json_line
from inception_jax.storage.run_folder import (
    code_version,
    evaluations_path,
    read_record,
    versions,
)
from inception_jax.text import printable
from inception_jax.training.metrics import means
from inception_jax.weights.model import find_model
from inception_jax.weights.model_folder import is_model_folder

# Batches that both modes of batch norm are compared on, and the loss of top-1 accuracy
# from where on it is told.
GAP_BATCHES = 8
MAX_GAP = 0.02


@dataclass(frozen=True)
class Options:
    """Evaluate one model, or several together."""

    # Runs, model folders or names of models; of several, the softmax is averaged (Table 5).
    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    # Views of each image: the paper's single crop, ResNet's 10, 12, GoogLeNet's 144.
    crops: Literal["1", "10", "12", "144"] = "1"
    # TFDS name, folder:DIR or digits; default: the (first) run's own.
    data: str | None = None
    # Split, or a part of one, such as eval[:1000]; default: the run's own, or eval.
    split: str | None = None
    # Folder of prepared data sets; default: the run's own, or TFDS's.
    data_dir: str | None = None
    # Step of a run's checkpoint; default: the newest.
    step: int | None = None
    # File with the images to leave out, one name or number of a validation image on a
    # line, such as ILSVRC2014_clsloc_validation_blacklist.txt for Table 2.
    exclude: Path | None = None
    # Views at once over all devices; an image with more views than that goes alone. Without
    # a run also the batch whose statistics the moving averages are compared with.
    batch_size: int = 128
    # An image that cannot be read: an error, or left out and named.
    on_bad_image: Literal["error", "skip"] = "error"
    # Where the result is appended; default: evaluations.jsonl in the first run, or in runs.
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ValueError("name at least one run or model folder, such as runs/digits.")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {self.batch_size}.")
        if self.step is not None and len(self.models) > 1:
            raise ValueError("--step is for one run; an ensemble takes the newest of each.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input, 74 damaged checkpoint, 130 interrupted."""

    def do() -> None:
        options = tyro.cli(Options, prog="python -m experiments.evaluate", args=arguments)
        compile_cache.enable()
        run(options)

    return run_command("experiments.evaluate", do, if_interrupted="nothing was recorded")


def run(options: Options) -> dict[str, Any]:
    """Evaluate, print, append the record and return it."""
    devices = all_devices()
    folders = [find_model(path) for path in options.models]
    runs = [folder for folder in folders if not is_model_folder(folder)]
    out = options.out or evaluations_path(runs[0] if runs else Path("runs"))
    if out.is_dir():
        raise ValueError(f"{out} is a folder; --out takes a file to append to.")
    excluded = read_exclusions(options.exclude)
    options = _with_defaults(options, runs)
    source = open_source(options.data, options.split, options.data_dir)
    source = exclude_images(source, excluded) if excluded else source
    models = [load_trained(folder, devices, options.step) for folder in folders]
    start = time.perf_counter()
    totals, skipped = _with_progress(options, models, source, devices)
    record = {
        "networks": [one.card.network for one in models],
        "runs": [str(folder) for folder in folders],
        "sources": [one.card.origin.source for one in models],
        "steps": [one.card.origin.step for one in models],
        "data": options.data,
        "split": options.split,
        "excluded": len(excluded),
        "skipped": skipped,
        "crops": int(options.crops),
        **totals,
        "seconds": round(time.perf_counter() - start, 2),
        "devices": describe(devices),
        "versions": versions(),
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
    """Data, split and their folder, where not given, as the first run's."""
    given = (options.data, options.split, options.data_dir)
    if runs:
        config = read_record(runs[0]).config
        own = (config.data, config.eval_split, config.data_dir)
    elif options.data:
        own = (None, "eval", None)
    else:
        raise ValueError(
            f"{options.models[0]} is a model folder, which names no data; say on what: "
            "--data imagenet2012, for example, or --data folder:DIR."
        )
    data, split, data_dir = (x or y for x, y in zip(given, own, strict=True))
    return replace(options, data=data, split=split, data_dir=data_dir)


def _with_progress(
    options: Options, models: Sequence[TrainedModel], source: Source, devices: Sequence[Any]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    views = int(options.crops)
    at_once = max(options.batch_size // views // len(devices), 1) * len(devices)
    with tqdm(total=len(source), unit="image", disable=None) as bar:
        return evaluate(
            models,
            source,
            views=views,
            batch_size=at_once,
            devices=devices,
            on_bad_image=options.on_bad_image,
            on_batch=bar.update,
        )


def read_exclusions(path: Path | None) -> list[str]:
    """Names or numbers, one on a line, each once; ValueError without a file or any."""
    if path is None:
        return []
    if not path.is_file():
        raise ValueError(f"{path} is no file; --exclude takes a list of images.")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not (names := list(dict.fromkeys(line for line in lines if line))):
        raise ValueError(f"{path} names no image to exclude.")
    return names


def summary(record: dict[str, Any]) -> str:
    """What was evaluated, and a line for each kind of weights."""
    kinds = [kind for kind in WEIGHT_KINDS if kind in record]
    count = int(record[kinds[0]]["count"])
    what = " + ".join(
        f"{name} ({source if step is None else f'step {step}'})"
        for name, source, step in zip(
            record["networks"], record["sources"], record["steps"], strict=True
        )
    )
    left_out = f", {record['excluded']} excluded" if record["excluded"] else ""
    if record["skipped"]:
        left_out += f", {len(record['skipped'])} that cannot be read left out"
    crops = "1 crop" if record["crops"] == 1 else f"{record['crops']} crops"
    lines = [
        f"{what} on {record['data']} {record['split']}: {count} images{left_out}, {crops}",
        f"{'weights':10}{'top-1 error':>14}{'top-5 error':>14}{'loss':>10}",
    ]
    for kind in kinds:
        mean = means(record[kind])
        lines.append(
            f"{kind:10}{1 - mean['top1']:14.2%}{1 - mean['top5']:14.2%}{mean['loss']:10.4f}"
        )
    return "\n".join(lines + [f"left out: {name}" for name in record["skipped"]])


def compare_batch_norm_modes(
    trained: TrainedModel, source: Source, devices: Sequence[Any], batch_size: int
) -> str:
    """Evaluation-mode against training-mode loss, with advice where they disagree."""
    each = min(batch_size, len(source)) // len(devices)  # as in training
    # In any order: a batch of one class, as folders give them, has other statistics.
    order = np.random.default_rng(0).permutation(len(source)).tolist()
    whole = eval_batches(
        replace(source, examples=Subset(source.examples, order)),
        preprocess=trained.card.preprocess,
        batch_size=max(each, 1) * len(devices),
        on_bad_image="skip",  # an error has come before
    )
    batches = [
        {"image": batch["image"], "label": batch["label"]}
        for batch in islice(whole, GAP_BATCHES)
        if batch["mask"].all()
    ]
    if not batches:
        return "Too few images to compare training and evaluation mode."
    again = "; make them anew: python -m experiments.recalibrate RUN --out DIR"
    advice = again if trained.card.origin.source == "run" else " on these images"
    lines = []
    for kind, variables in trained.variables.items():
        found = mode_gap(trained.model, variables, batches, devices)
        gap = found["eval"]["top1"] - found["train"]["top1"]
        lines.append(
            f"{kind}: with moving averages loss {found['eval']['loss']:.4f}, top-1 "
            f"{found['eval']['top1']:.2%}; with statistics of batches of {each} loss "
            f"{found['train']['loss']:.4f}, top-1 {found['train']['top1']:.2%}"
        )
        if gap < -MAX_GAP:
            lines.append(
                f"WARNING: {kind} weights lose {-gap:.1%} to their moving averages of "
                f"batch statistics, which do not fit them{advice}."
            )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
