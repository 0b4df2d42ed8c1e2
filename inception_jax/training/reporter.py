# SPDX-License-Identifier: Apache-2.0
"""What a training run tells: a live line, metrics.jsonl, TensorBoard, where time goes."""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from inception_jax.models.summary import summarise
from inception_jax.runtime.devices import describe, peak_flops
from inception_jax.runtime.goodput import Goodput, total_seconds
from inception_jax.storage import run_folder
from inception_jax.storage.jsonl import append_json_line, read_json_lines
from inception_jax.text import printable
from inception_jax.training.metrics import best_evaluation, means, rounded
from inception_jax.training.setup import Setup


class Reporter:
    """Tells of the run from update `step` on; silent on all hosts but the first.

    Lines of metrics.jsonl from after `step`, which an interrupted process wrote and no
    checkpoint holds, are removed: those updates come again.
    """

    def __init__(
        self,
        setup: Setup,
        goodput: Goodput,
        step: int,
        before: run_folder.RunRecord | None = None,
    ) -> None:
        self.setup, self.goodput = setup, goodput
        self.speaks = jax.process_index() == 0
        self.sums: dict[str, float] = {}  # of the updates since the last line
        self.highest_norm = 0.0
        self.last: Mapping[str, float] = {}  # values of the newest update
        self.step = step  # of the last line
        # The rate is that of the images since then; the first update compiles.
        self.since, self.images = math.inf, 0.0  # training seconds at the last line
        self.bad_images: set[str] = set()
        macs = summarise(setup.network, setup.preprocess.image_shape).macs
        # A multiply-accumulate is two operations, and backward is twice forward.
        self.flops_per_image = 6 * macs
        self.peak = peak_flops(setup.devices)
        if not self.speaks:
            return
        _forget_after(run_folder.metrics_path(setup.folder), step)
        self.curves = Curves(setup, step)
        print(printable(_greeting(setup, step)), flush=True)
        if step and before and (warning := _other_devices(setup, before.sessions[-1])):
            print(warning, file=sys.stderr, flush=True)
        self.bar = tqdm(
            total=setup.steps,
            initial=step,
            unit=" steps",
            bar_format="{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt}, {rate_fmt}, "
            "{remaining} left{postfix}",
            disable=None,  # no bar where the output is no terminal
        )
        self.account(step)

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.speaks:
            self.bar.close()
            self.curves.close()

    def add(self, values: Mapping[str, float]) -> None:
        """An update is done; its sums join those of the next line."""
        for name, value in values.items():
            if name.endswith("_sum") or name == "count":
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.last = values
        if self.since == math.inf:
            self.since = self.goodput.training_seconds()
        else:
            self.images += values["count"]
        # Not max(): it would lose a NaN.
        self.highest_norm = float(np.maximum(self.highest_norm, values["grad_norm"]))
        if self.speaks:
            loss = values["loss_sum"] / values["count"]
            self.bar.set_postfix_str(f"loss {loss:.3g}{self._speed()}", refresh=False)
            self.bar.update()

    def log(self, step: int) -> None:
        """Write the line of the updates since the last one."""
        if not self.speaks or step == self.step:
            return
        record = {
            "kind": "train",
            "step": step,
            "epoch": self._epoch(step),
            **self.sums,
            "grad_norm": self.last["grad_norm"],
            "highest_grad_norm": self.highest_norm,
            "learning_rate": self.last["learning_rate"],
        }
        if rate := self._rate():
            record["images_per_second"] = round(rate, 2)
            if self.peak:
                record["mfu"] = round(rate * self.flops_per_image / self.peak, 4)
        self._write(record)
        mean = means(self.sums)
        numbers = ("grad_norm", "learning_rate", "images_per_second", "mfu")
        self.curves.draw(
            "train", step, mean | {n: record[n] for n in numbers if n in record}
        )
        if self.bar.disable:
            print(
                f"step {step}/{self.setup.steps}, epoch {record['epoch']:.2f}: loss "
                f"{mean['loss']:.4g}, top-1 {mean['top1']:.1%}{self._speed()}"
                f"{self._left(step)}",
                flush=True,
            )
        self.sums, self.highest_norm = {}, 0.0
        self.account(step)
        self.step, self.since, self.images = step, self.goodput.training_seconds(), 0.0

    def evaluated(self, step: int, sums: Mapping[str, Mapping[str, float]]) -> None:
        """The evaluation split was gone through, with raw and with averaged weights."""
        if not self.speaks:
            return
        self._write({"kind": "eval", "step": step, "epoch": self._epoch(step), **sums})
        words = []
        for name, values in sums.items():
            mean = means(values)
            self.curves.draw(f"eval_{name}", step, mean)
            words.append(
                f"{name} top-1 {mean['top1']:.2%}, top-5 {mean['top5']:.2%}, loss "
                f"{mean['loss']:.4g}"
            )
        count = next(iter(sums.values()))["count"]
        tqdm.write(f"evaluation at step {step}, {count:.0f} images: {'; '.join(words)}")
        self.account(step)

    def has_evaluation(self, step: int) -> bool:
        """Whether the evaluation at `step` is on record."""
        lines = run_folder.read_evaluations(self.setup.folder)
        return any(line["step"] == step for line in lines)

    def evaluations_since_the_best(self) -> int:
        """Number of those on record that came after the best one; 0 without any."""
        lines = run_folder.read_evaluations(self.setup.folder)
        return len(lines) - 1 - best_evaluation(lines) if lines else 0

    def over_early(self, step: int) -> None:
        """The run ends at `step`, before its last update."""
        self.log(step)
        if self.speaks:
            tqdm.write(
                f"over at step {step}: {self.setup.config.patience} evaluations without a "
                "better one."
            )

    def probed(self, step: int, signals: Mapping[str, Any]) -> None:
        """Signals after update `step`, the last that was added; lists are of blocks."""
        if not self.speaks:
            return
        of_groups = {name: value for name, value in self.last.items() if "/" in name}
        values = {n: rounded(x) for n, x in (dict(signals) | of_groups).items()}
        self._write({"kind": "probe", "step": step, "epoch": self._epoch(step), **values})
        numbers = {n: x for n, x in values.items() if isinstance(x, float)}
        self.curves.draw("probe", step, numbers)
        self.account(step)

    def not_finite(self, step: int, names: Sequence[str]) -> None:
        """Update `step` gave a loss or gradient that is no number, on these images."""
        if self.speaks:
            self._write({"kind": "not_finite", "step": step, "images": names})

    def skipped(self, names: Iterable[str]) -> None:
        """Images that could not be read; each is told once."""
        for name in names:
            if self.speaks and name not in self.bad_images:
                self.bad_images.add(name)
                self._write({"kind": "skipped", "step": self.step, "image": name})
                tqdm.write(f"skipped, as it cannot be read: {name}")

    def account(self, step: int) -> None:
        """Put on record where the time went so far."""
        if self.speaks:
            path = run_folder.goodput_path(self.setup.folder)
            append_json_line(path, self.goodput.record(step))

    def say_where_the_time_went(self) -> None:
        """Wall time over all processes of the run, and the shares of what it went to."""
        if not self.speaks:
            return
        seconds = total_seconds(read_json_lines(run_folder.goodput_path(self.setup.folder)))
        total = sum(seconds.values())
        shares = (f"{k.replace('_', ' ')} {seconds[k] / total:.1%}" for k in seconds)
        print(f"Wall time {tqdm.format_interval(total)}: {', '.join(shares)}.")

    def _write(self, record: dict[str, Any]) -> None:
        append_json_line(run_folder.metrics_path(self.setup.folder), record)

    def _epoch(self, step: int) -> float:
        return round(step / self.setup.steps_per_epoch, 4)

    def _rate(self) -> float:
        """Images per second of training since the last line; 0 where not yet known."""
        seconds = self.goodput.training_seconds() - self.since
        return self.images / seconds if seconds > 0 else 0.0

    def _speed(self) -> str:
        if not (rate := self._rate()):
            return ""
        mfu = f", MFU {rate * self.flops_per_image / self.peak:.1%}" if self.peak else ""
        return f", {rate:.1f} images/s{mfu}"

    def _left(self, step: int) -> str:
        if not (rate := self._rate()):
            return ""
        seconds = (self.setup.steps - step) * self.setup.config.batch_size / rate
        return f", {tqdm.format_interval(seconds)} left"


class Curves:
    """TensorBoard's files, and Weights & Biases where the run is to be logged there."""

    def __init__(self, setup: Setup, step: int) -> None:
        folder = setup.folder / "tensorboard"
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)
        self.wandb = None
        if setup.config.wandb:
            try:
                import wandb  # an extra of its own
            except ModuleNotFoundError as error:
                message = 'wandb is missing: pip install "inception_jax[wandb]"'
                raise ImportError(message) from error
            self.wandb = wandb.init(
                project=setup.config.wandb,
                dir=setup.folder,
                id=_wandb_id(setup.folder),
                resume="allow",
            )

    def draw(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point at `step` to each curve of the group."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
        if self.wandb:
            self.wandb.log({f"{group}/{n}": v for n, v in values.items()}, step=step)

    def close(self) -> None:
        """Write what is waiting."""
        self.writer.close()
        if self.wandb:
            self.wandb.finish()


def _wandb_id(folder: Path) -> str:
    """The path of the run, up to 64 of the letters that Weights & Biases takes."""
    path = folder.absolute().as_posix().strip("/")
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path)[-64:]


def _greeting(setup: Setup, step: int) -> str:
    config, devices = setup.config, len(setup.devices)
    sync = config.parallel.bn_sync
    over = {"none": 1, "global": devices}.get(sync, sync)
    at_once = config.batch_size // devices // config.accumulate
    start = f", from the checkpoint of step {step}" if step else ""
    return (
        f"{config.network} on {config.data}: {len(setup.train_source)} images of "
        f"{len(setup.train_source.class_names)} classes, evaluated on "
        f"{len(setup.eval_source)}.\n"
        f"{describe(setup.devices)}, {config.dtype}: {config.batch_size} images per "
        f"update, {at_once} at a time on a device, batch statistics over "
        f"{over * at_once}.\n"
        f"{setup.steps} updates ({setup.steps / setup.steps_per_epoch:.4g} epochs) into "
        f"{setup.folder}{start}. Ctrl-C saves and ends."
    )


def _other_devices(setup: Setup, before: run_folder.Session) -> str:
    """What resuming promises on other devices than those of the last session, if so."""
    there = f"{before.devices} in {before.processes} processes"
    here = f"{describe(setup.devices)} in {jax.process_count()} processes"
    if there == here:
        return ""
    return (
        f"This run was on {there} until now and goes on with {here}: the images of every "
        "update stay the same, the numbers agree to rounding and no longer bit for bit."
    )


def _forget_after(path: Path, step: int) -> None:
    records = read_json_lines(path)
    kept = [record for record in records if record["step"] <= step]
    if len(kept) < len(records):
        draft = path.with_suffix(".tmp")
        draft.write_text("".join(json.dumps(record) + "\n" for record in kept))
        draft.replace(path)
