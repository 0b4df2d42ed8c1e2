# SPDX-License-Identifier: Apache-2.0
"""The loop of a training run: data, steps, evaluation, checkpoints, records."""

import math
from collections import deque
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import numpy as np

from inception_jax.config import ParallelConfig
from inception_jax.data.sampling import example_names, train_positions
from inception_jax.data.source import Subset
from inception_jax.runtime import hosts
from inception_jax.runtime.collectives import with_stop_flag
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.parallel import ParallelStep, data_parallel
from inception_jax.runtime.stopping import StopSignal
from inception_jax.runtime.watchdog import Watchdog
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.training.diagnostics import function_change
from inception_jax.training.feed import eval_feed, train_feed
from inception_jax.training.from_config import numbers_for
from inception_jax.training.metrics import add_sums
from inception_jax.training.probe import Probe
from inception_jax.training.reporter import Reporter
from inception_jax.training.setup import Setup
from inception_jax.training.step import TrainOptions, TrainState, eval_step, train_step

# Steps that may be under way on the devices while the host goes on.
IN_FLIGHT = 2


class NonFiniteError(RuntimeError):
    """A loss or gradient is no number any more."""


class Loop:
    """The compiled steps of a run and what they report to."""

    def __init__(
        self,
        setup: Setup,
        goodput: Goodput,
        saved: Checkpoints | None,
        reporter: Reporter,
        watchdog: Watchdog,
        stop: StopSignal,
    ) -> None:
        self.setup, self.goodput = setup, goodput
        self.saved, self.reporter, self.watchdog = saved, reporter, watchdog
        self.stop = stop
        self.finite = True  # the newest update was
        self.told_to_stop = False  # some process of the run was, and all know
        config = setup.config
        self.train_step, self.eval_step = compiled_steps(
            setup.options, config.parallel, tuple(setup.devices)
        )
        self.numbers = numbers_for(config)
        self.compiled: set[str] = set()  # of the steps
        # Updates under way, and what they will give.
        self.pending: deque[tuple[int, dict[str, jax.Array], jax.Array]] = deque()

    def train(self, state: TrainState, step: int) -> bool:
        """Updates until the last one or a signal to stop; saves before it returns."""
        setup, config = self.setup, self.setup.config
        per_epoch = setup.steps_per_epoch
        evaluated = step == 0 or self._evaluated_before(state, step)
        over = step < setup.steps and self._over_early()
        place, tell = self.train_step.place, self.reporter.skipped
        batches = train_feed(setup, step, place, tell)
        while step < setup.steps and not over and not self._stopping():
            with self.goodput.spent_on("data_wait"):
                batch = next(batches)
            probing = config.probe_every and (step + 1) % config.probe_every == 0
            before = self._signals(state)["logits"] if probing else None
            with self._working("step", "train"):
                (state, metrics), stops = self.train_step(
                    state, batch | self._flags(), self.numbers
                )
                step += 1
                self.pending.append((step, metrics, stops))
                while len(self.pending) > IN_FLIGHT:
                    self._receive()
            if self.saved:
                self.saved.check()
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
                evaluated = self._evaluate(state, step)
                over = not last and evaluated and self._over_early()
            if last or _passed(step, config.checkpoint_every * per_epoch):
                self._save(state, step)
        if over:
            self._receive_all()
            self.reporter.over_early(step)
        self._save(state, step)
        with self.goodput.spent_on("checkpoint"):
            hosts.run_on_all(lambda: self.saved and self.saved.wait())
        self.reporter.account(step)
        # Above its steps: it was trained for longer before.
        return evaluated and (step >= setup.steps or over)

    def _over_early(self) -> bool:
        """Whether too many evaluations have come after the best one; the same in all
        processes, since the first one decides by what is on record."""
        patience = self.setup.config.patience
        if patience is None:
            return False
        since = self.reporter.evaluations_since_the_best() if self.saved else 0
        (first, *_) = hosts.exchange({"since": str(since)})
        return int(first["since"]) >= patience

    def _evaluated_before(self, state: TrainState, step: int) -> bool:
        """A signal may have cut the evaluation at this checkpoint short: it comes again."""
        setup = self.setup
        interval = setup.config.eval_every * setup.steps_per_epoch
        if step < setup.steps and not _passed(step, interval):
            return True
        (done, *_) = hosts.exchange({"done": str(self.reporter.has_evaluation(step))})
        return done["done"] == "True" or self._evaluate(state, step)

    def _stopping(self) -> bool:
        """Whether to stop now: all processes of a run have to at the same update."""
        return self.told_to_stop or (self.stop.requested and jax.process_count() == 1)

    def _flags(self) -> dict[str, np.ndarray]:
        """Whether this process was told to stop, for a step that all add up."""
        devices = len(self.setup.devices) // jax.process_count()
        return {"stop": np.full(devices, self.stop.requested, np.float32)}

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
        step, metrics, stops = self.pending.popleft()
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        self.told_to_stop |= float(jax.device_get(stops)) > 0
        self.watchdog.step = step
        finite = math.isfinite(values["loss_sum"]) and math.isfinite(values["grad_norm"])
        self.reporter.add(values)
        if not finite and self.finite:
            self._not_finite(step, values)
        self.finite = finite

    def _not_finite(self, step: int, values: dict[str, float]) -> None:
        """Put the first such update in a row on record with its images; abort if asked."""
        setup, config = self.setup, self.setup.config
        source = setup.train_source
        positions = train_positions(
            source, step - 1, batch_size=config.batch_size, seed=config.seed
        )
        names = example_names(source, positions)
        self.reporter.not_finite(step, names)
        if config.on_nonfinite == "record":
            return
        self.reporter.log(step)
        raise NonFiniteError(
            f"step {step}: the loss is {values['loss_sum'] / values['count']:g} and the "
            f"gradient's norm {values['grad_norm']:g}, on {', '.join(names[:3])} and "
            f"others (all in metrics.jsonl). Checkpoints in {setup.checkpoints} are from "
            "before; lower the learning rate, clip gradients (--optimizer.clip-norm), "
            "scale residuals, or go on with --on-nonfinite record."
        )

    def _save(self, state: TrainState, step: int) -> None:
        self._receive_all()  # nothing is saved that was not looked at
        if self.saved:
            with self.goodput.spent_on("checkpoint"):
                self.saved.save(step, state)
        self.reporter.account(step)

    def _evaluate(self, state: TrainState, step: int) -> bool:
        """Whether the evaluation was done; a signal to stop ends it early."""
        variables = {"raw": state.raw_variables, "ema": state.ema_variables}
        sums: dict[str, dict[str, float]] = {name: {} for name in variables}
        with self.goodput.spent_on("eval"):
            source, size = self.setup.eval_source, self.setup.eval_batch_size
            for batch in eval_feed(self.setup, source, size, self.reporter.skipped):
                placed = self.eval_step.place(batch | self._flags())
                for name, value in variables.items():
                    with self._working("eval", "eval"):
                        found, stops = self.eval_step(value, placed, self.numbers)
                        add_sums(sums[name], found)
                if float(jax.device_get(stops)):
                    self.told_to_stop = True
                    return False
        self.reporter.evaluated(step, sums)
        return True

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
        (batch,) = eval_feed(self.setup, first, count, self.reporter.skipped)
        return Probe(self.setup, batch["image"])


@lru_cache(maxsize=4)  # runs of one process, one after another, share what is compiled
def compiled_steps(
    options: TrainOptions, parallel: ParallelConfig, devices: tuple[jax.Device, ...]
) -> tuple[ParallelStep, ParallelStep]:
    """To train and to evaluate."""
    update = with_stop_flag(partial(train_step, options=options))
    look = partial(eval_step, network=options.network, preprocess=options.preprocess)
    return (
        data_parallel(update, parallel, devices),
        data_parallel(with_stop_flag(look), parallel, devices, donate_state=False),
    )


def _passed(step: int, interval: float) -> bool:
    """Whether a multiple of `interval` lies in (step - 1, step]."""
    return math.floor(step / interval) > math.floor((step - 1) / interval)
