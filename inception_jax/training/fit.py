# SPDX-License-Identifier: Apache-2.0
"""Train a run from its configuration, in one process or in several."""

from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import jax

from inception_jax.config import RunConfig
from inception_jax.runtime import hosts
from inception_jax.runtime.devices import describe
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.parallel import replicate
from inception_jax.runtime.stopping import ExitStatus, StopSignal
from inception_jax.runtime.watchdog import Watchdog
from inception_jax.storage import run_folder
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.training.initial_weights import load_first_weights
from inception_jax.training.loop import Loop
from inception_jax.training.reporter import Reporter, SilentReporter
from inception_jax.training.setup import Setup, claim_folder, current_session, set_up
from inception_jax.training.state import TrainState, jitted_init, state_shapes


class HostLostError(RuntimeError):
    """Another process of the run can no longer be reached."""

    exit_status = ExitStatus.HOST_LOST


def fit(config: RunConfig, started: float | None = None) -> bool:
    """Train a run, resuming from the newest checkpoint in its folder if there is one.

    Returns whether the run is complete; False if a signal stopped it and it was saved.
    Time is accounted from `started`, a value of `time.perf_counter()` (default: now).

    Raises ValueError before the first step if the configuration, data, devices, folder or
    processes are inconsistent, and later if memory does not suffice or an image is
    unreadable; NonFiniteError if the loss or gradient is not finite;
    CheckpointError if a checkpoint cannot be written or read, and OSError for other files;
    HostLostError if another process of the run is gone.
    """
    goodput = Goodput(started)
    hosts.connect(config.hosts)
    lines = hosts.list_processes(run_folder.code_version())
    if len(lines) > 1 and jax.process_index() == 0:
        print("\n".join(lines), flush=True)
    setup = hosts.run_on_all(partial(set_up, config))
    hosts.check_consistent(_shared_settings(setup))
    watchdog = Watchdog(
        goodput,
        config.hosts,
        folder=setup.folder / run_folder.HOSTS_FOLDER,
        index=jax.process_index(),
        count=jax.process_count(),
    )
    with StopSignal() as stop, watchdog:
        try:
            return _train(setup, goodput, watchdog, stop)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise _out_of_memory(setup) from error
            if jax.process_count() == 1:
                raise
            raise HostLostError(
                f"another process of the run, or the network to it, is gone ({error}).\n"
                f"{watchdog.peers()}"
            ) from error


def _train(setup: Setup, goodput: Goodput, watchdog: Watchdog, stop: StopSignal) -> bool:
    with ExitStack() as stack:
        previous, checkpoints = hosts.run_on_all(partial(_open_folder, setup, stack))
        with goodput.spent_on("compile"):  # of the initial weights
            state, step = _initial_state(setup, checkpoints)
        reporter: Reporter | SilentReporter = SilentReporter()
        if jax.process_index() == 0:
            reporter = Reporter(setup, goodput, step, previous)
        with reporter:
            loop = Loop(setup, goodput, checkpoints, reporter, watchdog, stop)
            is_complete = loop.train(state, step)
        reporter.print_time()
        return is_complete


def _open_folder(
    setup: Setup, stack: ExitStack
) -> tuple[run_folder.RunRecord | None, Checkpoints | None]:
    """Return the previous record and the checkpoints, which only process 0 opens."""
    if jax.process_index() != 0:
        return None, None
    previous = stack.enter_context(claim_folder(setup))
    checkpoints = Checkpoints(setup.checkpoints, setup.config.keep_checkpoints)
    return previous, stack.enter_context(checkpoints)


def _initial_state(setup: Setup, checkpoints: Checkpoints | None) -> tuple[TrainState, int]:
    """Return the state and step to start from: the newest checkpoint, or initial weights.

    Process 0 reads the files and sends the state to the others.
    """
    config, devices = setup.config, setup.devices
    replicas = config.parallel.stale_replicas
    shapes = state_shapes(setup.network, config.optimizer, replicas)

    def restore() -> tuple[int | None, Any]:
        restored = checkpoints.restore_newest(shapes) if checkpoints else None
        return restored or (None, None)

    step, state = hosts.run_on_all(restore)
    step = hosts.broadcast(step)
    if step is not None:
        return replicate(state, shapes, devices), step
    random_state = jitted_init(setup.network, config.optimizer, replicas)(config.seed)
    if config.first_weights is None:
        return random_state, 0

    def load() -> TrainState | None:
        return load_first_weights(random_state, config) if checkpoints else None

    return replicate(hosts.run_on_all(load), shapes, devices), 0


def _shared_settings(setup: Setup) -> dict[str, str]:
    """Return the settings that must be the same in all processes of a run."""
    own = {"workdir", "data_dir", "workers", "hosts.index"}
    session = current_session(setup)
    shared = {
        "code": session.code,
        "training examples": str(len(setup.train_source)),
        "evaluation examples": str(len(setup.eval_source)),
        "classes": ", ".join(setup.train_source.class_names),
    }
    settings = run_folder.flatten_settings(asdict(setup.config))
    shared |= {name: str(value) for name, value in settings.items() if name not in own}
    return shared | {f"version of {name}": x for name, x in session.versions.items()}


def _out_of_memory(setup: Setup) -> ValueError:
    config = setup.config
    remat = "" if config.remat else " or --remat"
    return ValueError(
        f"--batch-size {config.batch_size} does not fit in the memory of "
        f"{describe(setup.devices)}; choose a smaller one, or --accumulate "
        f"{2 * config.accumulate}{remat}."
    )
