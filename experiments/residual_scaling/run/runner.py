# SPDX-License-Identifier: Apache-2.0
"""Training of the runs, with one compilation for each shape."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from experiments.residual_scaling.design.runs import DEFAULTS, Run
from experiments.residual_scaling.judge.outcomes import final_loss, has_collapsed
from experiments.residual_scaling.run.probe_log import ProbeLog
from experiments.residual_scaling.run.programs import (
    OPTIMIZER,
    Programs,
    Values,
    open_data,
    values_of,
)
from experiments.residual_scaling.run.progress import Progress
from experiments.residual_scaling.run.records import Record, read_records, test_accuracy
from experiments.residual_scaling.run.study import Study
from inception_jax.data.batches import eval_batches, train_batches
from inception_jax.data.prefetch import usable_cores
from inception_jax.data.source import Source
from inception_jax.runtime.devices import describe, local_devices
from inception_jax.storage.files import append_json_line
from inception_jax.storage.run_folder import flatten_settings, setting_differences
from inception_jax.training.metrics import rounded

MAX_POINTS = 1000  # of a recorded loss curve; longer curves are averaged in groups
MAX_DEVICES = 4  # each full network needs about a gigabyte


def use_all_cores() -> None:
    """Split the CPU into one device per core, up to four, so that runs train side by side.

    A number of devices that the user has chosen is kept. JAX must not be in use yet.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_chosen = "xla_force_host_platform_device_count" in flags
    if jax.config.jax_num_cpu_devices < 1 and not is_chosen:
        jax.config.update("jax_num_cpu_devices", min(MAX_DEVICES, len(usable_cores())))


def settings_of(study: Study) -> dict[str, Any]:
    """Return the settings that all runs of a study must share; saved with every run."""
    options = asdict(OPTIMIZER).items()
    shared = {n: value for n, value in options if n not in DEFAULTS and n != "kind"}
    return flatten_settings({"optimizer": shared, "probe_images": study.plan.probe_images})


def finished_runs(study: Study) -> dict[Run, Record]:
    """Return the records of finished runs of this study, in the study's order.

    Raises ValueError if the folder has runs that were trained with other settings.
    """
    records = read_records(study.records_file)
    for record in records.values():
        if different := setting_differences(record["settings"], settings_of(study)):
            raise ValueError(
                f"{study.folder} has runs with other settings ({', '.join(different)}); "
                "choose another --workdir."
            )
    return {run: records[run] for run in study.runs if run in records}


def train_study(study: Study, started: float | None = None) -> dict[Run, Record]:
    """Train the runs that are not finished yet; return all records in the study's order.

    A run is saved as soon as it finishes; an interrupted one is trained again by the next
    call. Runs that would not finish within the study's time, counted from `started` (a
    `time.perf_counter()`), are left out. Raises ValueError on runs with other settings.
    """
    started = time.perf_counter() if started is None else started
    done = finished_runs(study)
    remaining = [run for run in study.runs if run not in done]
    if done:
        print(f"{len(done)} of {len(study.runs)} runs are already finished.", flush=True)
    if not remaining:
        return done
    study.folder.mkdir(parents=True, exist_ok=True)
    lab = Lab(study)
    print(
        f"{study.plan.description}\n{len(remaining)} runs, one at a time on each of "
        f"{describe(lab.devices)}, for at most {study.seconds / 60:.3g} minutes. Ctrl-C "
        "keeps finished runs.",
        flush=True,
    )
    deadline = started + study.seconds
    with Progress(remaining, len(lab.devices), deadline) as progress:
        while together := progress.next():
            progress.start(together)
            programs = lab.programs(together[0])
            for record in train_runs(lab, programs, together, progress):
                append_json_line(study.records_file, record)
                progress.finish(Run(**record["run"]), _result_line(record))
    if progress.left_out:
        print(
            f"{len(progress.left_out)} runs would not have finished in time and were left "
            "out; the same command continues with them."
        )
    return finished_runs(study)


class Lab:
    """Devices, data and compiled programs that runs share."""

    def __init__(self, study: Study) -> None:
        self.study, self.devices = study, local_devices()
        self._programs: dict[Run, Programs] = {}
        # Most runs share their seeds and therefore their batches.
        self.batch = lru_cache(maxsize=1024)(self._batch)
        self._batches = lru_cache(maxsize=64)(self._training)

    def data(self, run: Run, split: str) -> Source:
        return open_data(run, split, self.study.data_dir)

    def programs(self, run: Run) -> Programs:
        program = run.program
        if program not in self._programs:
            train = self.data(program, "train")
            sizes = len(train), len(train.class_names)
            self._programs[program] = Programs(program, *sizes, self.devices)
        return self._programs[program]

    def _batch(self, shape: Run, seed: int, step: int) -> dict[str, np.ndarray]:
        """Return the training batch of a step, counted from 0."""
        return self._batches(shape, seed)[step]

    def _training(self, shape: Run, seed: int) -> Any:
        return train_batches(
            self.data(shape, "train"),
            preprocess=self.programs(shape).preprocess,
            augment=None,
            batch_size=shape.batch_size,
            seed=seed,
        )


def train_runs(
    lab: Lab, programs: Programs, runs: Sequence[Run], progress: Progress
) -> list[Record]:
    """Train runs of one shape, one on each device; return their records in order."""
    start = time.perf_counter()
    shape = runs[0].shape
    # Devices without a run repeat the last one.
    each = [*runs, *[runs[-1]] * (len(lab.devices) - len(runs))]
    values: Values = _stack([values_of(run) for run in each])
    batches = [partial(lab.batch, shape, run.seed) for run in each]
    probe_batch = next(_testing(lab, shape, lab.study.plan.probe_images))
    log = ProbeLog(programs, _repeat(probe_batch, len(each)), values)
    state = programs.init(runs[0])(values)
    log.record(0, state)
    curves: list[tuple[np.ndarray, np.ndarray]] = []  # losses and norms, step by step
    pending = []
    for step in range(1, shape.steps + 1):
        probing = step <= shape.probe_first or step == shape.steps
        probing |= step % shape.probe_every == 0
        logits_before = log.logits(step - 1, state) if probing else None
        batch = _stack([batch_of(step - 1) for batch_of in batches])
        state, metrics = programs.step(state, batch, values.numbers)
        pending.append((metrics["loss_sum"] / metrics["count"], metrics["grad_norm"]))
        if probing:
            log.record(step, state, logits_before, metrics)
            curves += jax.device_get(pending)
            pending.clear()
            progress.show(step, curves[-1][0], log.entries[-1]["pool_dead"])
            if not np.isfinite(curves[-1][0]).any():
                break  # diverged runs do not recover
    tests = _test_sums(lab, programs, state, shape, values)
    seconds = round((time.perf_counter() - start) / len(runs), 2)
    return [
        _record(lab, run, *np.array(curves)[:, :, i].T, log.of_run(i))
        | {"test": _test_record(tests, i), "seconds": seconds}
        for i, run in enumerate(runs)
    ]


def _record(
    lab: Lab, run: Run, loss: np.ndarray, norm: np.ndarray, probes: dict[str, list]
) -> Record:
    if not np.isfinite(loss).all():
        loss = loss[: np.argmin(np.isfinite(loss)) + 1]
    every = -(-run.steps // MAX_POINTS)
    return {
        "run": asdict(run),
        "settings": settings_of(lab.study),
        "classes": len(lab.data(run, "train").class_names),
        "loss_every": every,
        "loss": rounded(_thinned(loss, every)),
        "grad_norm": rounded(_thinned(norm[: len(loss)], every)),
        "probes": probes,
        "devices": describe(lab.devices),
        "versions": {p: version(p) for p in ("inception_jax", "jax", "flax", "optax")},
    }


def _thinned(values: np.ndarray, every: int) -> np.ndarray:
    """Return the means of groups of `every` neighbours."""
    return np.array([values[i : i + every].mean() for i in range(0, len(values), every)])


def _testing(lab: Lab, shape: Run, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    source, preprocess = lab.data(shape, "eval"), lab.programs(shape).preprocess
    for batch in eval_batches(source, preprocess=preprocess, batch_size=batch_size):
        yield {n: batch[n] for n in ("image", "label", "mask")}


def _test_sums(
    lab: Lab, programs: Programs, state: Any, shape: Run, values: Values
) -> dict[str, np.ndarray]:
    total: dict[str, np.ndarray] = {}
    for batch in _testing(lab, shape, lab.study.plan.probe_images):
        batch = _repeat(batch, len(lab.devices))
        sums = programs.evaluate(state.raw_variables, batch, values.numbers)
        for name, value in jax.device_get(sums).items():
            total[name] = total.get(name, 0.0) + np.float64(value)
    return total


def _test_record(sums: dict[str, np.ndarray], index: int) -> dict[str, float]:
    """Return the sums of one run, and the share of channels zero for all images."""
    of_run = {name: value[index] for name, value in sums.items()}
    dead = float(np.mean(of_run.pop("alive") == 0))
    return {name: float(value) for name, value in of_run.items()} | {"dead": dead}


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _repeat(tree: Any, count: int) -> Any:
    return _stack([tree] * count)


def _result_line(record: Record) -> str:
    word = "collapsed" if has_collapsed(record) else "not collapsed"
    dead = record["probes"]["pool_dead"][-1]
    return (
        f"{word}, {dead:.0%} of the channels dead, final loss {final_loss(record):.3g}, "
        f"test accuracy {test_accuracy(record):.1%}"
    )
