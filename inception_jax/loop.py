# SPDX-License-Identifier: Apache-2.0
"""A training run from its configuration: data, steps, evaluation, checkpoints, records."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.checkpoint import Checkpoints
from inception_jax.config import RunConfig
from inception_jax.data import Source, eval_batches, train_batches, train_iterator
from inception_jax.evaluate import Subset
from inception_jax.goodput import Goodput
from inception_jax.metrics import add
from inception_jax.optimizer import optimizer_numbers
from inception_jax.parallel import DataParallel, replicated, this_host
from inception_jax.probe import Probe
from inception_jax.reporting import Reporter
from inception_jax.run_setup import Setup, set_up
from inception_jax.signals import function_change
from inception_jax.stopping import StopSignal
from inception_jax.train import Numbers, TrainState, eval_step, init_state, train_step

# Steps that may be under way on the devices while the host goes on.
IN_FLIGHT = 2


class NonFiniteError(RuntimeError):
    """A loss or gradient is no number any more."""


def fit(config: RunConfig, started: float | None = None) -> bool:
    """Train as `config` says, from the newest checkpoint in its folder if there is one.

    Returns whether the run is complete; False after a signal to stop, with the state
    saved. `started` is the `time.perf_counter()` that the account of time begins at.

    Raises ValueError, before anything expensive, where the configuration, the data and
    the devices do not fit or the folder holds another run; NonFiniteError under
    `on_nonfinite="abort"`; OSError where something cannot be read or written.
    """
    goodput = Goodput(started)
    setup = set_up(config)
    with (
        StopSignal() as stop,
        Checkpoints(setup.checkpoints, config.keep_checkpoints) as saved,
    ):
        with goodput.spent_on("compile"):  # of the initial weights
            state, step = _start(setup, saved)
        with Reporter(setup, goodput, step) as reporter:
            done = _Run(setup, goodput, saved, reporter).train(state, step, stop)
        reporter.say_where_the_time_went()
    return done


def _start(setup: Setup, saved: Checkpoints) -> tuple[TrainState, int]:
    """The newest checkpoint's state, or a fresh one; and its step."""
    init = jax.jit(partial(init_state, setup.network, setup.config.optimizer))
    latest = saved.latest_step()
    if latest is None:
        return init(setup.config.seed), 0
    like = replicated(jax.eval_shape(init, setup.config.seed), setup.devices)
    return saved.restore(latest, like), latest


class _Run:
    """The compiled steps of a run and what they report to."""

    def __init__(
        self, setup: Setup, goodput: Goodput, saved: Checkpoints, reporter: Reporter
    ) -> None:
        self.setup, self.goodput = setup, goodput
        self.saved, self.reporter = saved, reporter
        config = setup.config
        self.train_step = DataParallel(
            partial(train_step, options=setup.options), config.parallel, setup.devices
        )
        look = partial(eval_step, network=setup.network, preprocess=setup.preprocess)
        self.eval_step = DataParallel(
            look, config.parallel, setup.devices, donate_state=False
        )
        scale = config.residual_scale
        self.numbers = Numbers(
            optimizer_numbers(config.optimizer),
            None if scale is None else jnp.float32(scale),
            jnp.int32(config.seed),
        )
        self.compiled: set[str] = set()  # of the steps
        # Updates under way, and what they will give.
        self.pending: deque[tuple[int, dict[str, jax.Array]]] = deque()

    def train(self, state: TrainState, step: int, stop: StopSignal) -> bool:
        """Updates until the last one, or until `stop` is set; saves before it returns."""
        setup, config = self.setup, self.setup.config
        per_epoch = setup.steps_per_epoch
        batches = self._prefetched(step)
        while step < setup.steps and not stop.requested:
            with self.goodput.spent_on("data_wait"):
                batch = next(batches)
            probing = config.probe_every and (step + 1) % config.probe_every == 0
            before = self._signals(state)["logits"] if probing else None
            with self._working("step", "train"):
                state, metrics = self.train_step(state, batch, self.numbers)
                step += 1
                self.pending.append((step, metrics))
                while len(self.pending) > IN_FLIGHT:
                    self._receive()
            last = step == setup.steps
            if last or step % config.log_every == 0:
                self._receive_all()
                self.reporter.log(step)
            if before is not None:
                found = self._signals(state)
                found["function_change"] = function_change(before, found.pop("logits"))
                self.reporter.probed(step, found)
            if last or _passed(step, config.eval_every * per_epoch):
                self._receive_all()
                self._evaluate(state, step)
            if last or _passed(step, config.checkpoint_every * per_epoch):
                self._save(state, step)
        if step < setup.steps:
            self._save(state, step)
        with self.goodput.spent_on("checkpoint"):
            self.saved.wait()
        self.reporter.account(step)
        return step >= setup.steps  # above: it was trained for longer before

    def _working(self, kind: str, program: str) -> Any:
        """The first call of a program is mostly its compilation, and counts as that."""
        first = program not in self.compiled
        self.compiled.add(program)
        return self.goodput.spent_on("compile" if first else kind)

    def _receive_all(self) -> None:
        with self.goodput.spent_on("step"):
            while self.pending:
                self._receive()

    def _receive(self) -> None:
        """Wait for the oldest step under way and look at what it gave."""
        step, metrics = self.pending.popleft()
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        finite = math.isfinite(values["loss_sum"]) and math.isfinite(values["grad_norm"])
        self.reporter.add(values)
        if finite or self.setup.config.on_nonfinite == "record":
            return
        self.reporter.log(step)
        raise NonFiniteError(
            f"step {step}: the loss is {values['loss_sum'] / values['count']:g} and the "
            f"gradient's norm {values['grad_norm']:g}. Checkpoints in "
            f"{self.setup.checkpoints} are from before; lower the learning rate, clip "
            "gradients (--optimizer.clip-norm), scale residuals, or go on with "
            "--on-nonfinite record."
        )

    def _save(self, state: TrainState, step: int) -> None:
        self._receive_all()  # nothing is saved that was not looked at
        with self.goodput.spent_on("checkpoint"):
            self.saved.save(step, state)
        self.reporter.account(step)

    def _evaluate(self, state: TrainState, step: int) -> None:
        variables = {"raw": state.raw_variables, "ema": state.ema_variables}
        sums: dict[str, dict[str, float]] = {name: {} for name in variables}
        with self.goodput.spent_on("eval"):
            for batch in self._eval_batches(
                self.setup.eval_source, self.setup.eval_batch_size
            ):
                placed = self.eval_step.place(batch)
                for name, value in variables.items():
                    with self._working("eval", "eval"):
                        add(sums[name], self.eval_step(value, placed, self.numbers))
        self.reporter.evaluated(step, sums)

    def _signals(self, state: TrainState) -> dict[str, Any]:
        self._receive_all()
        with self.goodput.spent_on("eval"):
            probe = self._probe  # reads its images the first time
            with self._working("eval", "probe"):
                return probe(state, self.numbers)

    @cached_property
    def _probe(self) -> Probe:
        """Of the first images of the evaluation split."""
        source, count = self.setup.eval_source, self.setup.probe_images
        first = replace(source, examples=Subset(source.examples, range(count)))
        (batch,) = self._eval_batches(first, count)
        return Probe(self.setup, batch["image"])

    def _eval_batches(
        self, source: Source, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        host, hosts = this_host()
        for batch in eval_batches(
            source,
            preprocess=self.setup.preprocess,
            batch_size=batch_size,
            num_hosts=hosts,
            host=host,
            on_bad_image=self.setup.config.on_bad_image,
            workers=self.setup.config.workers,
        ):
            self.reporter.skipped(batch.get("skipped", ()))
            yield {name: batch[name] for name in ("image", "label", "mask")}

    def _prefetched(self, step: int) -> Iterator[dict[str, jax.Array]]:
        """Batches from `step` on; the next one is on its way while one is worked on."""
        setup, config = self.setup, self.setup.config
        host, hosts = this_host()
        dataset = train_batches(
            setup.train_source,
            preprocess=setup.preprocess,
            augment=config.augment,
            batch_size=config.batch_size,
            seed=config.seed,
            num_hosts=hosts,
            host=host,
            on_bad_image=config.on_bad_image,
        )
        iterator = train_iterator(dataset, start_step=step, workers=config.workers)
        return _one_ahead(map(self._placed, iterator))

    def _placed(self, batch: dict[str, Any]) -> dict[str, jax.Array]:
        self.reporter.skipped(batch.pop("skipped", ()))
        return self.train_step.place(batch)


def _one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """`items`, each asked for while the one before it is worked on."""
    iterator = iter(items)
    waiting = next(iterator)
    for item in iterator:
        yield waiting
        waiting = item
    yield waiting


def _passed(step: int, interval: float) -> bool:
    """Whether a multiple of `interval` lies in (step - 1, step]."""
    return math.floor(step / interval) > math.floor((step - 1) / interval)
