# SPDX-License-Identifier: Apache-2.0
"""A training run from its configuration, in one process or in several that act as one."""

from contextlib import ExitStack
from dataclasses import asdict
from functools import partial

import jax

from inception_jax.config import RunConfig
from inception_jax.runtime import hosts
from inception_jax.runtime.devices import describe
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.placement import replicate
from inception_jax.runtime.stopping import StopSignal
from inception_jax.runtime.watchdog import Watchdog
from inception_jax.storage import run_folder
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.training.initial_weights import load_first_weights
from inception_jax.training.loop import Loop
from inception_jax.training.reporter import Reporter
from inception_jax.training.setup import Setup, claim_folder, current_session, set_up
from inception_jax.training.step import TrainState, jitted_init, state_shapes


class HostLostError(RuntimeError):
    """Another process of the run cannot be reached any more."""


def fit(config: RunConfig, started: float | None = None) -> bool:
    """Train as `config` says, from the newest checkpoint in its folder if there is one.

    Returns whether the run is complete; False after a signal to stop, with the state
    saved. `started` is the `time.perf_counter()` that the account of time begins at.

    Raises ValueError, before anything expensive, where the configuration, the data and
    the devices do not fit, the processes of the run differ, or the folder is another's;
    NonFiniteError under `on_nonfinite="abort"`; CheckpointError where none can be written
    or read back; HostLostError where another process of the run is gone; OSError where
    something else cannot be read or written.
    """
    goodput = Goodput(started)
    hosts.connect(config.hosts)
    lines = hosts.list_processes(run_folder.code_version())
    if len(lines) > 1 and jax.process_index() == 0:
        print("\n".join(lines), flush=True)
    setup = hosts.run_on_all(partial(set_up, config))
    hosts.check_consistent(_must_agree(setup))
    folder = run_folder.hosts_path(setup.folder)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        watchdog = Watchdog(
            goodput, config.hosts, folder, jax.process_index(), jax.process_count()
        )
        stack.enter_context(watchdog)
        try:
            return _fit(setup, goodput, watchdog, stop, stack)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise ValueError(
                    f"batch_size {config.batch_size} does not fit into the memory of "
                    f"{describe(setup.devices)}; choose a smaller one, or --accumulate "
                    f"{2 * config.accumulate}{'' if config.remat else ' or --remat'}."
                ) from error
            if jax.process_count() == 1:
                raise
            raise HostLostError(
                f"another process of the run is gone, or the network to it ({error}).\n"
                f"{watchdog.peers()}"
            ) from error


def _fit(
    setup: Setup, goodput: Goodput, watchdog: Watchdog, stop: StopSignal, stack: ExitStack
) -> bool:
    before = saved = None

    def open_folder() -> None:
        nonlocal before, saved
        if jax.process_index() == 0:
            before = stack.enter_context(claim_folder(setup))
            keep = setup.config.keep_checkpoints
            saved = stack.enter_context(Checkpoints(setup.checkpoints, keep))

    hosts.run_on_all(open_folder)
    with goodput.spent_on("compile"):  # of the initial weights
        state, step = _start(setup, saved)
    with Reporter(setup, goodput, step, before) as reporter:
        loop = Loop(setup, goodput, saved, reporter, watchdog, stop)
        done = loop.train(state, step)
    reporter.say_where_the_time_went()
    return done


def _must_agree(setup: Setup) -> dict[str, str]:
    """What has to be the same in all processes of a run."""
    own = {"workdir", "data_dir", "workers", "hosts.index"}
    settings = run_folder.flatten_settings(asdict(setup.config)).items()
    here = current_session(setup)
    return {
        **{key: str(value) for key, value in settings if key not in own},
        **{f"version of {name}": number for name, number in here.versions.items()},
        "code": here.code,
        "training examples": str(len(setup.train_source)),
        "evaluation examples": str(len(setup.eval_source)),
        "classes": ", ".join(setup.train_source.class_names),
    }


def _start(setup: Setup, saved: Checkpoints | None) -> tuple[TrainState, int]:
    """The newest checkpoint's state, or one with the first weights; and its step.

    Process 0 reads them, so that all have the same, and sends them to the others.
    """
    network, optimizer = setup.network, setup.config.optimizer
    shapes = state_shapes(network, optimizer)
    found = hosts.run_on_all(lambda: saved.restore_newest(shapes) if saved else None)
    (step, *_) = hosts.exchange({"step": str(found[0]) if found else ""})
    if not step["step"]:
        state = jitted_init(network, optimizer)(setup.config.seed)
        if setup.config.first_weights is None:
            return state, 0
        begun = hosts.run_on_all(
            lambda: load_first_weights(state, setup.config) if saved else None
        )
        return replicate(begun, shapes, setup.devices), 0
    state = replicate(found and found[1], shapes, setup.devices)
    return state, int(step["step"])
