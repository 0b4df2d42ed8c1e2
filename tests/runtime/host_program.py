# SPDX-License-Identifier: Apache-2.0
"""The program that each of several processes runs for test_hosts.py."""

import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from inception_jax.config import HostsConfig, ParallelConfig, PreprocessSpec
from inception_jax.data.batches import eval_batches
from inception_jax.data.source import Source
from inception_jax.runtime import hosts
from inception_jax.runtime.collectives import with_stop_flag
from inception_jax.runtime.devices import all_devices
from inception_jax.runtime.parallel import ShardedFunction, data_parallel, replicate

# Wrappers and bn_sync: batch statistics of each device, of pairs of devices, of all.
TRAINED = {
    "checks": [("pmap", "none")],
    "training": list(itertools.product(("pmap", "shard_map"), ("none", 2, "global"))),
    "start": [],
}
# Bits that arithmetic would not preserve: -0.0, a NaN with a payload, infinity.
SPECIAL = np.array([0x80000000, 0x7FC12345, 0x7F800000, 0x3F800000], np.uint32)


@dataclass(frozen=True)
class Options:
    """Options of this program."""

    folder: Path  # for the results of each process
    part: Literal["checks", "training", "start"] = "checks"
    hosts: HostsConfig = field(default_factory=HostsConfig)


def trained(wrapper: str, bn_sync: str | int) -> dict[str, np.ndarray]:
    """Return state and metrics after three steps on four devices, by path."""
    from tests.runtime import test_parallel as one_process

    step = one_process.mapped(ParallelConfig(wrapper, bn_sync), 4)
    state, compiled = one_process.start(), []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    for number, batch in enumerate(one_process.BATCHES):
        before = state
        placed = step.place(local_part(batch))  # before its step
        assert all(step.place(placed)[name] is placed[name] for name in placed)
        state, metrics = step(state, placed, one_process.NUMBERS)
        if number:  # the first state is in NumPy and cannot be donated
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1, compiled
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get((state, metrics)))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def local_part(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    index, count = jax.process_index(), jax.process_count()
    return {name: np.split(x, count)[index] for name, x in batch.items()}


def evaluated(wrapper: str, n: int = 103) -> dict[str, float]:
    """Return metrics summed over n images, in steps of eight, with random weights."""
    from inception_jax.training.metrics import add_sums
    from inception_jax.training.step import eval_step
    from tests.runtime import test_parallel as one_process

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (n, 8, 8, 1), np.uint8)
    examples = [{"image": x, "label": i % 10, "name": str(i)} for i, x in enumerate(images)]
    spec = PreprocessSpec((8, 8, 1), crop_fraction=1.0)
    network = one_process.inception_jax.create(one_process.SPEC)
    step = partial(eval_step, network=network, preprocess=spec)
    step = data_parallel(step, ParallelConfig(wrapper), donate=False)
    index, count = jax.process_index(), jax.process_count()
    sums: dict[str, float] = {}
    source = Source("test", "eval", tuple("0123456789"), examples)
    options = {"preprocess": spec, "batch_size": 8, "num_hosts": count, "host": index}
    for batch in eval_batches(source, **options):
        batch = {name: batch[name] for name in ("image", "label", "mask")}
        add_sums(sums, step(one_process.start().raw_variables, batch, one_process.NUMBERS))
    return sums


def results_with_stop_flag(wrapper: str) -> Iterator[Any]:
    """Yield results and stop flags when no process, the second and all ask to stop."""

    def step(state: Any, batch: dict, numbers: Any, *, axis_name: Any) -> Any:
        assert set(batch) == {"x"}
        return state + numbers, jax.lax.psum(jnp.sum(batch["x"]), axis_name)

    index, count = jax.process_index(), jax.process_count()
    mapped = data_parallel(with_stop_flag(step), ParallelConfig(wrapper))
    state, each = np.float32(0), 4 // count
    placed = mapped.place({"x": np.full(2 * each, 1 + index, np.float32)})
    for stop in (0, index, 1):
        flags = {"stop": np.full(each, stop, np.float32)}
        (state, total), stops = mapped(state, placed | flags, np.float32(1))
        yield [float(x) for x in jax.device_get((state, total, stops))]


def check_replicate() -> None:
    """Check that process 0's bits reach all devices and suit every wrapper."""
    tree = {
        "odd": SPECIAL.view(np.float32),
        "half": np.arange(6, dtype=jnp.bfloat16).reshape(2, 3) - 3,
        "step": np.int32(-7),
    }
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    index = jax.process_index()
    there = replicate(tree if index == 0 else None, like, all_devices())
    for name, x in there.items():
        assert x.dtype == tree[name].dtype, name
        assert x.is_fully_replicated, name
        assert len(x.sharding.device_set) == 4, name
        assert np.asarray(x).tobytes() == tree[name].tobytes(), name
    for wrapper in ("pmap", "shard_map"):
        step = data_parallel(lambda s, b, n, axis_name: s, ParallelConfig(wrapper))
        batch = {"x": np.zeros(4, np.float32)}
        result = step(
            replicate(tree if index == 0 else None, like, all_devices()), batch, 0
        )
        assert np.asarray(result["odd"]).tobytes() == SPECIAL.tobytes()
    whole = ShardedFunction(lambda s, b, n: s["step"] + jnp.sum(b["x"]).astype(jnp.int32))
    # `result` is on this process's devices (pmap) or on all (shard_map).
    assert int(whole(result, whole.place({"x": np.ones(2, np.float32)}), 0)) == -3


def error_messages() -> list[str]:
    """Return the errors that all processes raise if they differ or one of them fails."""
    index, count = jax.process_index(), jax.process_count()
    assert hosts.exchange("é" * index) == ["é" * i for i in range(count)]
    assert hosts.broadcast(index + 0.5) == 0.5
    hosts.check_consistent({"seed": "1"})
    assert hosts.run_on_all(lambda: index) == index

    def fail(error: Exception) -> None:
        if index == 1:
            raise error

    messages = []
    for action in (
        partial(hosts.check_consistent, {"seed": str(index), "code": "a"}),
        partial(hosts.run_on_all, partial(fail, RuntimeError("no such class"))),
        partial(hosts.run_on_all, partial(fail, OSError("disk full"))),
    ):
        try:
            action()
        except Exception as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


def signals_reach_python() -> bool:
    """Return whether no handler outside Python catches SIGTERM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return not int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1
    raise AssertionError("no SigCgt")


def main() -> None:
    """Run the part and write INDEX.json and INDEX.npz; after "checks" process 1 hangs."""
    options = tyro.cli(Options)
    hosts.connect(options.hosts)
    results: dict[str, Any] = {
        "host": [jax.process_index(), jax.process_count()],
        "free": signals_reach_python(),
    }
    print(*hosts.list_processes("c0de"), sep="\n", flush=True)
    index = jax.process_index()
    if options.part == "training" and index == 1:
        time.sleep(40)  # as if it compiled longer than gloo's timeout of 30 s
    states = {
        f"{wrapper} {mode} {name}": leaf
        for wrapper, mode in TRAINED[options.part]
        for name, leaf in trained(wrapper, mode).items()
    }
    np.savez(options.folder / f"{index}.npz", **states)
    if options.part == "checks":
        check_replicate()
        results |= {
            "evaluated": evaluated("pmap"),
            "results_with_stop_flag": {
                name: list(results_with_stop_flag(name)) for name in ("pmap", "shard_map")
            },
            "told": error_messages(),
        }
    (options.folder / f"{index}.json").write_text(json.dumps(results))
    if options.part == "checks":
        hosts.SHUTDOWN_TIMEOUT = 1.0
        if index == 0:
            hosts.exit_process(5)
        signal.pause()  # hangs, while JAX's own threads continue
    sys.exit(0)


if __name__ == "__main__":
    main()
