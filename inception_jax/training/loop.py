# SPDX-License-Identifier: Apache-2.0
"""The training loop, and the actions that it runs every few steps."""

import math
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from inception_jax.config import ParallelConfig
from inception_jax.data.sampling import example_names, train_positions
from inception_jax.data.source import Subset
from inception_jax.runtime import hosts
from inception_jax.runtime.collectives import Batch, with_stop_flag
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.parallel import ParallelStep, data_parallel
from inception_jax.runtime.stopping import ExitStatus, StopSignal
from inception_jax.runtime.watchdog import Watchdog
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.training.diagnostics import function_change
from inception_jax.training.feed import eval_feed, train_feed
from inception_jax.training.from_config import numbers_for
from inception_jax.training.metrics import add_sums
from inception_jax.training.probe import probe_program
from inception_jax.training.reporter import Reporter, SilentReporter
from inception_jax.training.setup import Setup
from inception_jax.training.state import TrainState
from inception_jax.training.step import TrainOptions, eval_step, train_step

MAX_PENDING = 2  # steps that may run on the devices while the host continues


class NonFiniteError(RuntimeError):
    """The loss or the gradient is NaN or infinite."""

    exit_status = ExitStatus.NOT_FINITE


class Hook(NamedTuple):
    """An action that the loop runs after some of the steps."""

    after: Callable[[TrainState, int], None]  # takes the state after a step, and the step
    interval: int | float | None  # in steps, possibly a fraction; None: never
    at_end: bool = True  # run after the last step as well
    before: Callable[[TrainState], None] = lambda state: None

    def is_due(self, step: int, last_step: int) -> bool:
        if self.interval is None:
            return False
        return passes(step, self.interval) or (self.at_end and step == last_step)


class Loop:
    """Trains a run and reports on it; only process 0 has `checkpoints`."""

    def __init__(
        self,
        setup: Setup,
        goodput: Goodput,
        checkpoints: Checkpoints | None,
        reporter: Reporter | SilentReporter,
        watchdog: Watchdog,
        stop: StopSignal,
    ) -> None:
        self.setup, self.goodput, self.checkpoints = setup, goodput, checkpoints
        self.reporter, self.watchdog, self.stop = reporter, watchdog, stop
        config = setup.config
        options, devices = setup.options, tuple(setup.devices)
        self.train_step, self.eval_step = compiled_steps(options, config.parallel, devices)
        self.probe_step = probe_program(setup.network, setup.preprocess, devices)
        self.numbers = numbers_for(config)
        self.called: set[str] = set()  # programs that have been compiled
        # Running steps: step number, metrics, and the sum of the stop flags.
        self.pending: deque[tuple[int, dict[str, jax.Array], jax.Array]] = deque()
        self.is_finite = True  # of the newest loss and gradient
        self.must_stop = False  # some process received a signal, which all now know
        self.evaluated = True  # the newest evaluation that was due is complete
        self.out_of_patience = False
        self.logits_before: Any = None  # of the probe images, before a probed step
        # In the order in which they run.
        self.hooks = [
            Hook(self._log, config.log_every),
            Hook(self._probe, config.probe_every, False, before=self._keep_logits),
            Hook(self._evaluate, config.eval_every * setup.steps_per_epoch),
            Hook(self._save, config.checkpoint_every * setup.steps_per_epoch),
        ]

    def train(self, state: TrainState, step: int) -> bool:
        """Train until the end or a stop signal, save, and return whether it is complete."""
        last_step = self.setup.steps
        if step > 0:
            self._repeat_evaluation(state, step)
        if step < last_step:
            self.out_of_patience = self._is_out_of_patience()
        batches = train_feed(self.setup, step, self.train_step.place, self.reporter.skipped)
        while step < last_step and not self.out_of_patience and not self._is_stopping():
            with self.goodput.spent_on("data_wait"):
                batch = next(batches)
            due = [hook for hook in self.hooks if hook.is_due(step + 1, last_step)]
            for hook in due:
                hook.before(state)
            state, step = self._step(state, step, batch)
            for hook in due:
                hook.after(state, step)
        if self.out_of_patience:
            self._receive_all()
            self.reporter.stopped_early(step)
        self._save(state, step)
        with self.goodput.spent_on("checkpoint"):
            hosts.run_on_all(self.checkpoints.wait if self.checkpoints else lambda: None)
        self.reporter.account(step)
        # A run whose length was reduced below its step is also complete.
        return self.evaluated and (step >= last_step or self.out_of_patience)

    def _step(self, state: TrainState, step: int, batch: Batch) -> tuple[TrainState, int]:
        """Start one step, and wait until at most `MAX_PENDING` steps are running."""
        with self._timed("step", "train"):
            (state, metrics), stops = self.train_step(
                state, batch | self._stop_flags(), self.numbers
            )
            step += 1
            self.pending.append((step, metrics, stops))
            while len(self.pending) > MAX_PENDING:
                self._receive()
        if self.checkpoints:
            self.checkpoints.check()
        return state, step

    def _log(self, state: TrainState, step: int) -> None:
        self._receive_all()
        self.reporter.log(step)

    def _keep_logits(self, state: TrainState) -> None:
        self.logits_before = self._signals(state)["logits"]

    def _probe(self, state: TrainState, step: int) -> None:
        signals = self._signals(state)
        logits = signals.pop("logits")
        signals["function_change"] = function_change(self.logits_before, logits)
        self.reporter.probed(step, signals)

    def _evaluate(self, state: TrainState, step: int) -> None:
        """Evaluate raw and averaged weights, unless a signal to stop interrupts it."""
        self._receive_all()
        self.evaluated = self._try_evaluation(state, step)
        if step < self.setup.steps and self.evaluated:
            self.out_of_patience = self._is_out_of_patience()

    def _save(self, state: TrainState, step: int) -> None:
        self._receive_all()  # raises NonFiniteError before a bad state is saved
        if self.checkpoints:
            with self.goodput.spent_on("checkpoint"):
                self.checkpoints.save(step, state)
        self.reporter.account(step)

    def _repeat_evaluation(self, state: TrainState, step: int) -> None:
        """Evaluate a restored state if its evaluation was due but interrupted."""
        interval = self.setup.config.eval_every * self.setup.steps_per_epoch
        was_due = step >= self.setup.steps or passes(step, interval)
        if was_due and not hosts.broadcast(self.reporter.has_evaluation(step)):
            self.evaluated = self._try_evaluation(state, step)

    def _is_out_of_patience(self) -> bool:
        """Return whether the best evaluation is too old. Process 0 decides for all."""
        patience = self.setup.config.patience
        if patience is None:
            return False
        return hosts.broadcast(self.reporter.evaluations_since_best()) >= patience

    def _is_stopping(self) -> bool:
        """Return whether to stop now; all processes must stop after the same step."""
        return self.must_stop or (self.stop.requested and jax.process_count() == 1)

    def _stop_flags(self) -> Batch:
        """Return this process's stop flags, which a step sums over all devices."""
        devices = len(self.setup.devices) // jax.process_count()
        return {"stop": np.full(devices, self.stop.requested, np.float32)}

    def _timed(self, kind: str, program: str) -> AbstractContextManager[None]:
        """Account time as `kind`, or as "compile" at the first call of a program."""
        is_first = program not in self.called
        self.called.add(program)
        return self.goodput.spent_on("compile" if is_first else kind)

    def _receive_all(self) -> None:
        with self.goodput.spent_on("step"):
            while self.pending:
                self._receive()

    def _receive(self) -> None:
        """Wait for the oldest running step and record its metrics."""
        step, metrics, stops = self.pending.popleft()
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        self.must_stop |= float(jax.device_get(stops)) > 0
        self.watchdog.step = step
        self.reporter.add(values)
        is_finite = math.isfinite(values["loss_sum"] + values["grad_norm"])
        if self.is_finite and not is_finite:
            self._report_nonfinite(step, values)
        self.is_finite = is_finite

    def _report_nonfinite(self, step: int, values: dict[str, float]) -> None:
        """Record the images of the first non-finite step; raise unless told to continue."""
        config, source = self.setup.config, self.setup.train_source
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
            f"gradient norm {values['grad_norm']:g}, on {', '.join(names[:3])} and other "
            "images (all in metrics.jsonl). Earlier states are in "
            f"{self.setup.checkpoints}. Resume with --on-nonfinite record, or start a new "
            "run (another --workdir) with a lower learning rate, clipped gradients "
            "(--optimizer.clip-norm) or scaled residuals."
        )

    def _try_evaluation(self, state: TrainState, step: int) -> bool:
        """Evaluate; return False if a signal to stop interrupted the evaluation."""
        variables = {"raw": state.raw_variables, "ema": state.ema_variables}
        totals: dict[str, dict[str, float]] = {name: {} for name in variables}
        with self.goodput.spent_on("eval"):
            source, size = self.setup.eval_source, self.setup.eval_batch_size
            for batch in eval_feed(self.setup, source, size, self.reporter.skipped):
                placed = self.eval_step.place(batch | self._stop_flags())
                for name, value in variables.items():
                    with self._timed("eval", "eval"):
                        sums, stops = self.eval_step(value, placed, self.numbers)
                        add_sums(totals[name], sums)
                if float(jax.device_get(stops)):
                    self.must_stop = True
                    return False
        self.reporter.evaluated(step, totals)
        return True

    def _signals(self, state: TrainState) -> dict[str, Any]:
        self._receive_all()
        with self.goodput.spent_on("eval"):
            batch = self._probe_batch  # read at the first call
            with self._timed("eval", "probe"):
                return jax.device_get(self.probe_step(state, batch, self.numbers))

    @cached_property
    def _probe_batch(self) -> Batch:
        """The first images of the evaluation split, on the devices."""
        source, count = self.setup.eval_source, self.setup.probe_images
        first = replace(source, examples=Subset(source.examples, range(count)))
        (batch,) = eval_feed(self.setup, first, count, self.reporter.skipped)
        return self.probe_step.place({"image": batch["image"]})


@lru_cache(maxsize=4)  # compile once for all runs of a process
def compiled_steps(
    options: TrainOptions, parallel: ParallelConfig, devices: tuple[jax.Device, ...]
) -> tuple[ParallelStep, ParallelStep]:
    """Return the training and evaluation steps; both also return the stop flag."""
    train = with_stop_flag(partial(train_step, options=options))
    evaluate = partial(eval_step, network=options.network, preprocess=options.preprocess)
    return (
        data_parallel(train, parallel, devices),
        data_parallel(with_stop_flag(evaluate), parallel, devices, donate=False),
    )


def passes(step: int, interval: int | float) -> bool:
    """Return whether a multiple of `interval` lies in (step - 1, step]."""
    return math.floor(step / interval) > math.floor((step - 1) / interval)
