# SPDX-License-Identifier: Apache-2.0
"""Trains the arms: one compilation per width, one JSON line per finished arm."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.residual_scaling.outcomes import outcome
from experiments.residual_scaling.progress import Progress
from experiments.residual_scaling.study import Arm, Study
from inception_jax.config import OptimizerConfig, ParallelConfig, PreprocessSpec
from inception_jax.data import Source, eval_batches, open_source, train_batches
from inception_jax.metrics import add, append_json_line, means, read_json_lines
from inception_jax.models.networks import Network, create
from inception_jax.parallel import (
    AxisName,
    DataParallel,
    bn_options,
    local_devices_for,
)
from inception_jax.run_folder import flat, told_apart
from inception_jax.summary import summarise
from inception_jax.train import (
    Numbers,
    TrainOptions,
    TrainState,
    eval_step,
    init_state,
    network_input,
    train_step,
)

NUM_PROBE_IMAGES = 128

# Statistics of the whole batch, so that the outcome does not depend on how many devices
# there are; with the paper's own per-replica statistics it would.
PARALLEL = ParallelConfig(bn_sync="global")
# The paper's optimizer, without weight decay: the question is what the residuals do.
OPTIMIZER = OptimizerConfig(weight_decay=0.0)

# The digits whole and in their own size.
PREPROCESS = PreprocessSpec((8, 8, 1), crop_fraction=1.0)

# Of each step's metrics: sums over the batch and its size, and the gradient's norm.
RECORDED = ("loss_sum", "top1_sum", "count", "grad_norm")

ArmRecord = dict[str, Any]


def arms_file(study: Study) -> Path:
    """The record of the study: one JSON line for each finished arm."""
    return study.folder / "arms.jsonl"


def settings_of(study: Study) -> dict[str, Any]:
    """What must be equal for arms to be comparable; saved with every arm."""
    return study.settings | flat(
        {"bn_sync": PARALLEL.bn_sync, "optimizer": asdict(OPTIMIZER)}
    )


def finished_arms(study: Study) -> dict[Arm, ArmRecord]:
    """Arms of this study that are already on record, in the study's order.

    Raises ValueError if the folder holds arms that were trained with other settings.
    """
    records = {}
    for record in read_json_lines(arms_file(study)):
        there, here = record["settings"], settings_of(study)
        if different := told_apart(there, here):
            raise ValueError(
                f"{study.folder} holds arms of other settings ({', '.join(different)}); "
                "choose another --workdir."
            )
        records[Arm(**record["arm"])] = record
    return {arm: records[arm] for arm in study.arms if arm in records}


def run(study: Study) -> dict[Arm, ArmRecord]:
    """Train the arms that are not on record yet; returns all, in the study's order.

    Every finished arm is saved at once. An interrupted arm leaves nothing and is trained
    again by the next call. Raises ValueError on settings that do not fit, before training.
    """
    done = finished_arms(study)
    remaining = [arm for arm in study.arms if arm not in done]
    devices = local_devices_for(study.batch_size, NUM_PROBE_IMAGES)
    if done:
        print(f"{len(done)} of {len(study.arms)} arms are on record and kept.")
    if not remaining:
        return done
    train = open_source("digits", "train", study.data_dir)
    test = open_source("digits", "eval", study.data_dir)
    if study.batch_size > len(train):
        raise ValueError(
            f"batch_size must be at most {len(train)}, got {study.batch_size}."
        )
    study.folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(remaining)} arms of {study.steps} steps on {len(devices)} x "
        f"{devices[0].device_kind}; batch statistics over the whole batch. Ctrl-C keeps "
        "finished arms.",
        flush=True,
    )
    steps_per_epoch = len(train) / study.batch_size
    programs = {w: Programs(study, w, devices, steps_per_epoch) for w in study.widths}
    with Progress(
        remaining, study.steps, {w: p.macs for w, p in programs.items()}
    ) as progress:
        for arm in remaining:
            progress.start(arm)
            record = train_arm(study, arm, programs[arm.width], train, test, progress.show)
            append_json_line(arms_file(study), record)
            progress.finish(arm, _in_words(record))
    return finished_arms(study)


class Programs:
    """The compiled functions of one width; scale, learning rate and seed are values."""

    def __init__(
        self,
        study: Study,
        width: int,
        devices: Sequence[jax.Device],
        steps_per_epoch: float,
    ) -> None:
        # Without gamma, as slim trains; see small_image_spec for the rest.
        options = bn_options(PARALLEL, len(devices)) | {"bn_scale": False}
        network = create(study.spec(width), **options)
        self.macs = summarise(network).macs
        self.devices = f"{len(devices)} x {devices[0].device_kind}"
        self.init = jax.jit(partial(init_state, network, OPTIMIZER))
        options = TrainOptions(network, OPTIMIZER, steps_per_epoch, preprocess=PREPROCESS)
        step = partial(train_step, options=options)
        self.step = DataParallel(step, PARALLEL, devices)
        look = partial(DataParallel, config=PARALLEL, devices=devices, donate_state=False)
        self.evaluate = look(partial(eval_step, network=network, preprocess=PREPROCESS))
        self.probe = look(partial(dead_fraction, network=network))


def dead_fraction(
    variables: dict[str, dict],
    batch: dict[str, jax.Array],
    numbers: Numbers,
    *,
    network: Network,
    axis_name: AxisName,
) -> jax.Array:
    """Share of the channels before the average pool that are exactly zero everywhere.

    Batch statistics are used, as in training: it is the network that gradients see.
    """
    (_, endpoints), _ = network.apply(
        variables,
        network_input(batch, PREPROCESS),
        numbers.residual_scale,
        train=True,
        mutable=["batch_stats"],
    )
    last = endpoints[network.spec.stages[-1].names[-1]]
    highest = jax.lax.pmax(jnp.max(last, axis=(0, 1, 2)), axis_name)
    return jnp.mean(highest == 0.0)


def train_arm(
    study: Study,
    arm: Arm,
    programs: Programs,
    train: Source,
    test: Source,
    show: Callable[[int, float, float], None],
) -> ArmRecord:
    """Train one arm and return its record; `show(step, loss, dead)` after each probe."""
    start = time.perf_counter()
    numbers = Numbers(
        jnp.float32(arm.learning_rate), jnp.float32(arm.scale), jnp.int32(arm.seed)
    )
    batches = train_batches(
        train,
        preprocess=PREPROCESS,
        augment=None,
        batch_size=study.batch_size,
        seed=arm.seed,
    )
    probe_batch = next(_test_batches(test))
    state = programs.init(arm.seed)
    probe_steps, dead = [0], [_probe(programs, state, probe_batch, numbers)]
    history: dict[str, list[float]] = {name: [] for name in RECORDED}
    pending = []
    for step in range(1, study.steps + 1):
        state, metrics = programs.step(state, batches[step - 1], numbers)
        pending.append(metrics)
        if step % study.probe_every == 0 or step == study.steps:
            for name, values in history.items():
                values += [_seven_digits(metrics[name]) for metrics in pending]
            pending = []
            probe_steps.append(step)
            dead.append(_probe(programs, state, probe_batch, numbers))
            show(step, history["loss_sum"][-1] / history["count"][-1], dead[-1])
    record = {
        "arm": asdict(arm),
        "settings": settings_of(study),
        "train": history,
        "test": _test_sums(programs, state, test, numbers),
        "probe_steps": probe_steps,
        "dead_fraction": dead,
        "seconds": round(time.perf_counter() - start, 2),
        "devices": programs.devices,
        "versions": {p: version(p) for p in ("inception_jax", "jax", "flax", "optax")},
    }
    return record | {"outcome": outcome(training_loss(record), dead)}


def training_loss(record: ArmRecord) -> np.ndarray:
    """Mean loss of every step's batch, in nats; NaN where it was not finite."""
    return np.array(record["train"]["loss_sum"], float) / record["train"]["count"]


def test_accuracy(record: ArmRecord) -> float:
    """Share of the test images whose class was found, after the last step."""
    return means(record["test"])["top1"]


def _seven_digits(value: jax.Array) -> float:
    return float(f"{float(value):.7g}")  # all that float32 holds


def _probe(
    programs: Programs, state: TrainState, batch: dict[str, np.ndarray], numbers: Numbers
) -> float:
    return float(programs.probe(state.raw_variables, batch, numbers))


def _test_batches(test: Source) -> Iterator[dict[str, np.ndarray]]:
    batches = eval_batches(test, preprocess=PREPROCESS, batch_size=NUM_PROBE_IMAGES)
    return ({n: batch[n] for n in ("image", "label", "mask")} for batch in batches)


def _test_sums(
    programs: Programs, state: TrainState, test: Source, numbers: Numbers
) -> dict[str, float]:
    sums: dict[str, float] = {}
    for batch in _test_batches(test):
        add(sums, programs.evaluate(state.raw_variables, batch, numbers))
    return sums


def _in_words(record: ArmRecord) -> str:
    loss, dead = training_loss(record)[-1], record["dead_fraction"][-1]
    return (
        f"{record['outcome']}, final loss {loss:.3g}, {dead:.0%} of the channels dead, "
        f"test accuracy {test_accuracy(record):.1%}"
    )
