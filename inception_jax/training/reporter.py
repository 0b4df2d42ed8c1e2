# SPDX-License-Identifier: Apache-2.0
"""Reports of a training run: console, metrics.jsonl, goodput.jsonl and curves."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from inception_jax.models.summary import summarise
from inception_jax.runtime.devices import describe, peak_flops
from inception_jax.runtime.goodput import Goodput, total_seconds
from inception_jax.storage import run_folder
from inception_jax.storage.files import append_json_line, atomic_output, read_json_lines
from inception_jax.text import format_bytes, printable
from inception_jax.training.metrics import best_evaluation, means, rounded
from inception_jax.training.scalar_log import ScalarLog
from inception_jax.training.setup import Setup
from inception_jax.training.state import state_shapes, tree_bytes


class Reporter(AbstractContextManager):
    """Reports on a run that starts or resumes at `step`; only process 0 has one.

    Lines of metrics.jsonl after `step` are removed, because those steps are trained again.
    """

    def __init__(
        self,
        setup: Setup,
        goodput: Goodput,
        step: int,
        previous: run_folder.RunRecord | None = None,
    ) -> None:
        self.setup, self.goodput = setup, goodput
        # Of the steps since the last line of metrics.
        self.sums: dict[str, float] = {}
        self.highest_norm = 0.0
        self.images = 0.0
        self.start_seconds = math.inf  # training seconds at that line; inf at first
        self.last_step = step  # of the last line of metrics
        self.last_values: Mapping[str, float] = {}  # metrics of the newest step
        self.skipped_errors: set[str] = set()
        macs = summarise(setup.network, setup.preprocess.image_shape).macs
        # Two operations per multiply-accumulate; backward costs twice as much as forward.
        self.flops_per_image = 6 * macs
        self.peak = peak_flops(setup.devices)
        _remove_lines_after(setup.folder / run_folder.METRICS_FILE, step)
        self.curves = ScalarLog(setup, step)
        print(printable(greeting(setup, step)), flush=True)
        if step and previous:
            _warn_of_other_devices(setup, previous.sessions[-1])
        self.bar = tqdm(
            total=setup.steps,
            initial=step,
            unit=" steps",
            bar_format="{percentage:3.0f}%|{bar:16}| {n_fmt}/{total_fmt}, {rate_fmt}, "
            "{remaining} left{postfix}",
            disable=None,  # no bar unless the output is a terminal
        )
        self.account(step)

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.curves.close()

    def add(self, values: Mapping[str, float]) -> None:
        """Add the metrics of one step."""
        for name, value in values.items():
            if name.endswith("_sum") or name == "count":
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.last_values = values
        if self.start_seconds == math.inf:  # the first step compiles, so it is not counted
            self.start_seconds = self.goodput.training_seconds()
        else:
            self.images += values["count"]
        # Unlike max(), np.maximum keeps a NaN.
        self.highest_norm = float(np.maximum(self.highest_norm, values["grad_norm"]))
        loss = values["loss_sum"] / values["count"]
        self.bar.set_postfix_str(f"loss {loss:.3g}{self._speed()}", refresh=False)
        self.bar.update()

    def log(self, step: int) -> None:
        """Write a line on the steps since the last line, if there are any."""
        if step == self.last_step:
            return
        numbers = {name: self.last_values[name] for name in ("grad_norm", "learning_rate")}
        if rate := self.images_per_second():
            numbers["images_per_second"] = round(rate, 2)
            if self.peak:
                numbers["mfu"] = round(rate * self.flops_per_image / self.peak, 4)
        highest = {"highest_grad_norm": self.highest_norm}
        self._write("train", step, self.sums | numbers | highest)
        mean = means(self.sums)
        self.curves.write("train", step, mean | numbers)
        if self.bar.disable:
            print(
                f"step {step}/{self.setup.steps}, epoch {self._epoch(step):.2f}: loss "
                f"{mean['loss']:.4g}, top-1 {mean['top1']:.1%}{self._speed()}"
                f"{self._time_left(step)}",
                flush=True,
            )
        self.account(step)
        self.sums, self.highest_norm, self.images = {}, 0.0, 0.0
        self.last_step, self.start_seconds = step, self.goodput.training_seconds()

    def evaluated(self, step: int, sums: Mapping[str, Mapping[str, float]]) -> None:
        """Report an evaluation, given its sums for raw and averaged weights."""
        self._write("eval", step, sums)
        parts = []
        for name, values in sums.items():
            mean = means(values)
            self.curves.write(f"eval_{name}", step, mean)
            parts.append(
                f"{name} top-1 {mean['top1']:.2%}, top-5 {mean['top5']:.2%}, loss "
                f"{mean['loss']:.4g}"
            )
        count = sums["raw"]["count"]
        tqdm.write(f"evaluation at step {step}, {count:.0f} images: {'; '.join(parts)}")
        self.account(step)

    def has_evaluation(self, step: int) -> bool:
        """Return whether metrics.jsonl holds an evaluation at `step`."""
        lines = run_folder.read_evaluations(self.setup.folder)
        return any(line["step"] == step for line in lines)

    def evaluations_since_best(self) -> int:
        """Return the number of evaluations after the best one; 0 if there are none."""
        lines = run_folder.read_evaluations(self.setup.folder)
        return len(lines) - 1 - best_evaluation(lines) if lines else 0

    def stopped_early(self, step: int) -> None:
        """Report that the run ends at `step` because evaluations stopped improving."""
        self.log(step)
        tqdm.write(
            f"stopped early at step {step}: {self.setup.config.patience} evaluations "
            "without a better one."
        )

    def probed(self, step: int, signals: Mapping[str, Any]) -> None:
        """Report the signals after `step`, with the group metrics of that step."""
        groups = {name: value for name, value in self.last_values.items() if "/" in name}
        values = {name: rounded(x) for name, x in (dict(signals) | groups).items()}
        self._write("probe", step, values)
        numbers = {name: x for name, x in values.items() if isinstance(x, float)}
        self.curves.write("probe", step, numbers)
        self.account(step)

    def not_finite(self, step: int, names: Sequence[str]) -> None:
        """Report that the loss or the gradient of `step` on these images is not finite."""
        self._append({"kind": "not_finite", "step": step, "images": names})

    def skipped(self, errors: Iterable[str]) -> None:
        """Report error messages of unreadable images, each of them once."""
        for error in errors:
            if error not in self.skipped_errors:
                self.skipped_errors.add(error)
                self._append({"kind": "skipped", "step": self.last_step, "image": error})
                tqdm.write(f"skipped: {error}")

    def account(self, step: int) -> None:
        """Write how much time each activity has taken so far."""
        path = self.setup.folder / run_folder.GOODPUT_FILE
        append_json_line(path, self.goodput.record(step))

    def print_time(self) -> None:
        """Print the wall time of the run over all sessions, and how it was spent."""
        seconds = total_seconds(
            read_json_lines(self.setup.folder / run_folder.GOODPUT_FILE)
        )
        total = sum(seconds.values())
        shares = (f"{k.replace('_', ' ')} {seconds[k] / total:.1%}" for k in seconds)
        print(f"Wall time {tqdm.format_interval(total)}: {', '.join(shares)}.")

    def images_per_second(self) -> float:
        """Return the rate of training since the last line; 0 if it is not known yet."""
        seconds = self.goodput.training_seconds() - self.start_seconds
        return self.images / seconds if seconds > 0 else 0.0

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self._append({"kind": kind, "step": step, "epoch": self._epoch(step), **values})

    def _append(self, record: dict[str, Any]) -> None:
        append_json_line(self.setup.folder / run_folder.METRICS_FILE, record)

    def _epoch(self, step: int) -> float:
        return round(step / self.setup.steps_per_epoch, 4)

    def _speed(self) -> str:
        if not (rate := self.images_per_second()):
            return ""
        mfu = f", MFU {rate * self.flops_per_image / self.peak:.1%}" if self.peak else ""
        return f", {rate:.1f} images/s{mfu}"

    def _time_left(self, step: int) -> str:
        if not (rate := self.images_per_second()):
            return ""
        seconds = (self.setup.steps - step) * self.setup.config.batch_size / rate
        return f", {tqdm.format_interval(seconds)} left"


class SilentReporter(nullcontext):
    """The reporter of the other processes, which only prints unreadable images."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped_errors: set[str] = set()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None

    def skipped(self, errors: Iterable[str]) -> None:
        for error in set(errors) - self.skipped_errors:
            self.skipped_errors.add(error)
            print(f"skipped: {error}", flush=True)


def greeting(setup: Setup, step: int) -> str:
    """Return the lines that a run prints when it starts or resumes at `step`."""
    config, devices = setup.config, len(setup.devices)
    sync = config.parallel.bn_sync
    if not isinstance(sync, int):
        sync = 1 if sync == "none" else devices
    per_device = config.batch_size // devices // config.accumulate
    statistics = f"batch statistics of {sync * per_device} images"
    if config.bn_frozen:
        statistics = "batch norm uses its moving averages"
    resuming = f", resuming after step {step}" if step else ""
    return (
        f"Training {config.network} on {config.data}: {len(setup.train_source)} images of "
        f"{len(setup.train_source.class_names)} classes; evaluating on "
        f"{len(setup.eval_source)} images.\n"
        f"{describe(setup.devices)}, {config.dtype}: {config.batch_size} images per step, "
        f"{per_device} at a time on each device; {statistics}.\n"
        f"{_stale_replicas(setup)}"
        f"{setup.steps} steps ({setup.steps / setup.steps_per_epoch:.4g} epochs)"
        f"{resuming}, in {setup.folder}. Ctrl-C saves and stops."
    )


def _stale_replicas(setup: Setup) -> str:
    config = setup.config
    replicas = config.parallel.stale_replicas
    if replicas == 1:
        return ""
    copies = state_shapes(setup.network, config.optimizer, replicas).replicas
    return (
        f"{replicas} replicas with stale gradients; their parameters take "
        f"{format_bytes(tree_bytes(copies))} on each device.\n"
    )


def _warn_of_other_devices(setup: Setup, previous: run_folder.Session) -> None:
    before = f"{previous.devices} in {_processes(previous.processes)}"
    now = f"{describe(setup.devices)} in {_processes(jax.process_count())}"
    if now != before:
        warning = (
            f"The run has used {before} so far and continues on {now}. Every step sees the "
            "same images, but the results are no longer equal bit for bit. On another "
            "number of devices, dropout and batch statistics also differ (the latter "
            "unless --parallel.bn-sync is global and --accumulate is 1)."
        )
        print(warning, file=sys.stderr, flush=True)


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _remove_lines_after(path: Path, step: int) -> None:
    records = read_json_lines(path)
    kept = [record for record in records if record["step"] <= step]
    if len(kept) < len(records):
        with atomic_output(path) as draft:
            draft.write_text("".join(json.dumps(record) + "\n" for record in kept))
