# SPDX-License-Identifier: Apache-2.0
"""Compare fine-tuning with a linear classifier on pixels: `python -m experiments.transfer`.

A network is trained on the digits 0 to 4 and fine-tuned on a few scans of 5 to 9. This
module implements the protocol in experiments/finetuning/README.md, which was fixed before
the seeds were run. The methods are

linear    logistic regression on pixels, the penalty chosen by five-fold cross-validation
views     the same on 20 random views of each image, cropped as for the networks
scratch   the network from random weights, batch norm trained
head      fine-tuning of a new classifier, all other layers frozen
all       fine-tuning of all layers
"""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import tyro
from jaxtyping import UInt8

from experiments import finetune
from experiments.networks import digits as recipe
from inception_jax.config import PreprocessSpec, RunConfig
from inception_jax.data.augment import train_view
from inception_jax.data.decoding import decode
from inception_jax.data.digits import digit_examples
from inception_jax.runtime import compile_cache
from inception_jax.runtime.stopping import run_command
from inception_jax.storage import run_folder
from inception_jax.training.metrics import means

SHOTS, SEEDS = (5, 20), range(10, 20)
SOURCE_RATE, RATE, BODY_RATE = 0.2, 0.1, 1.0  # learning rates; the last is a factor
LEVEL = 0.9875  # of the intervals of the claims
METHODS = ("linear", "views", "scratch", "head", "all")
NUM_TRAIN = 1500  # the first of scikit-learn's scans; other writers wrote the others
BATCH_SIZE = 16  # of the target, whose smallest training set has 25 images
PENALTIES = 10.0 ** np.arange(-4, 5)
VIEWS = 20
NEVER = 1e9  # epochs

Images = tuple[np.ndarray, np.ndarray]  # pixels and labels


@dataclass(frozen=True)
class Options:
    """Compare fine-tuning with a linear classifier and with training from scratch."""

    # Folder for images, runs, results.csv and results.md.
    workdir: Path = Path("runs/transfer")


@dataclass(frozen=True)
class Result:
    """The accuracy of one method with one draw of images."""

    shots: int
    seed: int
    method: str
    accuracy: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status of `run_command`."""

    def action() -> None:
        options = tyro.cli(Options, prog="python -m experiments.transfer", args=arguments)
        compile_cache.enable()
        print(report(run(options.workdir), options.workdir))

    hint = "repeat the command to continue"
    return run_command("experiments.transfer", action, if_interrupted=hint)


def run(
    workdir: Path, shots: Sequence[int] = SHOTS, seeds: Sequence[int] = SEEDS
) -> list[Result]:
    """Evaluate every method on every draw; complete training runs are not repeated."""
    files, pixels, labels = scans()
    early = np.arange(len(labels)) < NUM_TRAIN
    source = workdir / "data" / "source"
    old = labels < 5
    write_images(source, files, labels, {"train": old & early, "val": old & ~early})
    accuracy = _train(source_config(source, workdir / "source"))
    print(f"source, digits 0 to 4: accuracy {accuracy:.2%}", flush=True)
    results = []
    for count in shots:
        for seed in seeds:
            drawn = np.isin(np.arange(len(labels)), draw(labels, count, seed))
            test = (labels >= 5) & ~drawn
            name = f"{count}_{seed}"
            folder = workdir / "data" / name
            write_images(folder, files, labels, {"train": drawn, "val": test})
            train_images = pixels[drawn], labels[drawn]
            test_images = pixels[test], labels[test]
            by_method = {
                "linear": linear(train_images, test_images, views=0, seed=seed),
                "views": linear(train_images, test_images, views=VIEWS, seed=seed),
            }
            for method in ("scratch", "head", "all"):
                by_method[method] = _train(
                    target_config(method, folder, workdir, name, seed)
                )
            results += [Result(count, seed, *item) for item in by_method.items()]
            shares = ", ".join(f"{method} {x:.2%}" for method, x in by_method.items())
            print(f"{count} per class, seed {seed}: {shares}", flush=True)
    return results


def scans() -> tuple[list[bytes], UInt8[np.ndarray, "n 8 8"], np.ndarray]:
    """Return all digits as PNG files, as pixels, and their labels."""
    examples = list(digit_examples())
    files = [example["image"] for example in examples]
    pixels = np.stack([decode(file, "a digit", 1)[..., 0] for file in files])
    return files, pixels, np.array([example["label"] for example in examples])


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the positions of `count` training scans of each of the digits 5 to 9."""
    rng = np.random.default_rng(seed)
    candidates = [np.flatnonzero(labels[:NUM_TRAIN] == digit) for digit in range(5, 10)]
    return np.concatenate([rng.choice(x, count, replace=False) for x in candidates])


def write_images(
    folder: Path, files: Sequence[bytes], labels: np.ndarray, splits: dict[str, np.ndarray]
) -> None:
    """Write FOLDER/SPLIT/CLASS/NUMBER.png for each split, unless FOLDER exists."""
    if folder.exists():
        return
    draft = folder.with_suffix(".tmp")
    for split, chosen in splits.items():
        for i in np.flatnonzero(chosen).tolist():
            path = draft / split / str(labels[i]) / f"{i:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(files[i])
    draft.rename(folder)


def source_config(data: Path, workdir: Path) -> RunConfig:
    """Return the configuration of training on the digits 0 to 4."""
    return replace(
        recipe.CONFIG,
        network="inception_resnet_small",
        data=f"folder:{data}",
        workdir=workdir,
        image_size=None,
        optimizer=replace(recipe.CONFIG.optimizer, learning_rate=SOURCE_RATE),
        epochs=10.0,
        eval_every=NEVER,
        checkpoint_every=NEVER,
    )


def target_config(
    method: str, data: Path, workdir: Path, name: str, seed: int
) -> RunConfig:
    """Return the configuration of `finetune`, but evaluate only the last step."""
    options = finetune.Options(
        data=f"folder:{data}",
        weights=str(workdir / "source"),
        workdir=workdir / f"{method}_{name}",
        batch_size=BATCH_SIZE,
        learning_rate=RATE,
        seed=seed,
        augment=recipe.CONFIG.augment,
        body_rate=0.0 if method == "head" else BODY_RATE,
    )
    config = replace(
        finetune.config_for(options),
        steps=finetune.MIN_STEPS,
        eval_every=NEVER,
        checkpoint_every=NEVER,
        keep_checkpoints=1,
        patience=None,
        log_every=100,
    )
    if method != "scratch":
        return config
    bn_decay = recipe.CONFIG.bn_decay
    return replace(config, first_weights=None, bn_frozen=False, bn_decay=bn_decay)


def _train(config: RunConfig) -> float:
    """Train unless the run is complete; return the final top-1 of averaged weights."""
    from inception_jax.training.fit import fit

    if not run_folder.read_evaluations(config.workdir):
        if not fit(config):
            raise KeyboardInterrupt
        jax.clear_caches()  # the programs of sixty runs would take gigabytes
    return means(run_folder.read_evaluations(config.workdir)[-1]["ema"])["top1"]


def linear(train: Images, test: Images, *, views: int, seed: int) -> float:
    """Return the accuracy of logistic regression on pixels or on `views` random views."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    images, labels = train
    folds = list(_folds(StratifiedKFold(5, shuffle=True, random_state=seed), train, views))
    if views:
        images = np.concatenate(list(_views(images, views, seed)))
        labels = np.repeat(labels, views)
    search = GridSearchCV(LogisticRegression(max_iter=10_000), {"C": PENALTIES}, cv=folds)
    search.fit(_flatten(images), labels)
    return float(search.score(_flatten(test[0]), test[1]))


def _folds(
    splitter: object, train: Images, views: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the positions of views in each fold; the views of an image stay together."""
    offsets = np.arange(max(views, 1))
    for parts in splitter.split(*train):
        yield tuple((part[:, None] * len(offsets) + offsets).ravel() for part in parts)


def _views(images: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `count` random views of each image."""
    spec, rng = PreprocessSpec((8, 8, 1), crop_fraction=1.0), np.random.default_rng(seed)
    for image in images[..., None]:
        views = [train_view(image, rng, spec, recipe.CONFIG.augment) for _ in range(count)]
        yield np.stack(views)[..., 0]


def _flatten(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return the mean and half the width of its confidence interval (Student's t)."""
    from scipy.stats import t

    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(t.ppf((1 + level) / 2, len(values) - 1) * error)


def accuracies(results: Sequence[Result], shots: int, method: str) -> np.ndarray:
    """Return the accuracies of a method in the order of the seeds."""
    chosen = [r for r in results if (r.shots, r.method) == (shots, method)]
    return np.array([r.accuracy for r in sorted(chosen, key=lambda r: r.seed)])


def report(results: Sequence[Result], workdir: Path) -> str:
    """Write results.csv and results.md; return the text of the latter."""
    with (workdir / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("shots", "seed", "method", "accuracy"))
        writer.writerows((r.shots, r.seed, r.method, r.accuracy) for r in results)
    lines = [
        "| images per class | method | accuracy, % | minus linear, points |",
        "|--:|---|--:|--:|",
    ]
    all_shots = sorted({r.shots for r in results})
    for shots in all_shots:
        baseline = accuracies(results, shots, "linear")
        for method in METHODS:
            own = accuracies(results, shots, method)
            above = "" if method == "linear" else _percent(own - baseline)
            lines.append(f"| {shots} | {method} | {_percent(own)} | {above} |")
    lines += ["", *(f"- {claim(results, shots)}" for shots in all_shots)]
    text = "\n".join(lines) + "\n"
    (workdir / "results.md").write_text(text, encoding="utf-8")
    return text


def claim(results: Sequence[Result], shots: int) -> str:
    """Return a sentence that says whether `all` beats `linear`."""
    own, baseline = (accuracies(results, shots, name) for name in ("all", "linear"))
    mean, error = interval(100 * (own - baseline), LEVEL)
    verdict = "holds" if mean - error > 0 else "is not shown"
    return (
        f"That all beats linear at {shots} images per class {verdict}: {mean:.1f} ± "
        f"{error:.1f} points ({100 * LEVEL:g} %, {len(own)} seeds)."
    )


def _percent(values: np.ndarray) -> str:
    mean, error = interval(100 * values)
    return f"{mean:.1f} ± {error:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())
