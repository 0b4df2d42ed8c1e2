# SPDX-License-Identifier: Apache-2.0
"""A run that is killed or stopped at random moments ends like an uninterrupted one.

The long version uses a slower network:
`pytest --slow -s tests/training/test_drills.py`.
"""

import random
import re
import signal
import time
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

from inception_jax.inference.evaluate import load_state
from inception_jax.runtime.stopping import ExitStatus
from inception_jax.training.fit import fit
from inception_jax.training.loop import NonFiniteError
from tests.drills import COMMAND_WITH_TINY, Drill, end, state_hash, what_is_left

KILLS = 24


def test_a_run_that_is_killed_twice(tiny, tmp_path):
    """It ends like an uninterrupted run with the same seed."""
    options = ("--network", "tiny", "--steps", "40", "--checkpoint-every", "0.08")
    options = (*options, "--data-dir", tiny.data_dir)
    whole = Drill(tmp_path / "whole", options, COMMAND_WITH_TINY)
    killed = replace(whole, folder=tmp_path / "killed")
    for _ in range(2):
        process = killed.start()
        killed.wait_for_checkpoint(process)
        time.sleep(random.uniform(0, 0.2))
        assert end(process, signal.SIGKILL) == -signal.SIGKILL, killed.errors.read_text()
        assert "Traceback" not in killed.errors.read_text()
    assert fit(killed.config)
    assert fit(whole.config)
    assert what_is_left(killed.folder) == what_is_left(whole.folder)
    assert what_is_left(killed.folder)["temporary"] == []
    other = replace(whole, folder=tmp_path / "other")
    assert fit(replace(other.config, seed=1))
    assert state_hash(other.folder) != state_hash(whole.folder)


def test_the_checkpoint_before_a_non_finite_loss(tiny, tmp_path):
    """The learning rate explodes at step 4, so the loss is not finite from step 5 on."""
    exploding = replace(tiny.optimizer, learning_rate=1e30, warmup_steps=3)
    config = replace(tiny, workdir=tmp_path / "run", optimizer=exploding, steps=20)
    with pytest.raises(NonFiniteError, match=r"step \d+: ") as error:
        fit(replace(config, checkpoint_every=0.01))
    bad = int(re.search(r"step (\d+)", str(error.value))[1])
    assert bad > 3
    saved = load_state(config.workdir, jax.devices())
    assert saved.step == saved.state.step == bad - 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(saved.state.params))


@pytest.fixture(scope="module")
def whole(data_dir: str, tmp_path_factory: pytest.TempPathFactory):
    """An uninterrupted run, compiled without a cache, and how long it takes with one."""
    options = ("--network", "inception_resnet_small", "--steps", "150")
    options = (*options, "--checkpoint-every", "0.21", "--data-dir", data_dir)
    drill = Drill(tmp_path_factory.mktemp("drills") / "whole", options)
    assert drill.start(JAX_ENABLE_COMPILATION_CACHE="false").wait() == 0
    start = time.perf_counter()
    warm = replace(drill, folder=drill.folder.with_name("warm"))
    assert warm.start().wait() == 0
    assert what_is_left(warm.folder) == what_is_left(drill.folder)
    return drill, time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_random_moments(whole, number):
    """Start runs until signals have interrupted them often enough."""
    drill, seconds = whole
    hits, runs, start = Counter(), 0, time.perf_counter()
    while hits.total() < (KILLS if number == signal.SIGKILL else KILLS // 2):
        runs += 1
        folder = drill.folder.with_name(f"{number.name}_{runs}")
        hits += interrupt_until_complete(replace(drill, folder=folder), number, seconds)
        assert what_is_left(folder) == what_is_left(drill.folder)
    print(f"\n{number.name}: {hits.total()} in {runs} runs, all equal bit by bit;")
    for moment, count in sorted(hits.items()):
        print(f"  {count:3} {moment}")
    print(f"  {time.perf_counter() - start:.0f} s")


def interrupt_until_complete(
    drill: Drill, number: signal.Signals, seconds: float
) -> Counter[str]:
    """Restart the run until it is complete, with a signal at a random moment each time."""
    hits: Counter[str] = Counter()
    while True:
        process = drill.start()
        if number != signal.SIGKILL or random.random() < 0.7:
            drill.wait_for_updates(process)
        time.sleep(random.uniform(0, seconds / 6))  # mostly while the process starts
        status = end(process, number)
        assert "Traceback" not in drill.errors.read_text()
        if status == 0:
            return hits
        if number != signal.SIGKILL and status == -number:
            # The run was complete, and Python was exiting.
            assert "\nWall time" in drill.said.read_text()
            return hits
        assert status == (-number if number == signal.SIGKILL else ExitStatus.RUN_AGAIN)
        hits[drill.moment] += 1
