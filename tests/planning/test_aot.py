# SPDX-License-Identifier: Apache-2.0
"""Compiled steps: the stored results, their keys, and the worker that compiles."""

import importlib.util
from dataclasses import replace
from fnmatch import fnmatch

import pytest

from inception_jax.config import AugmentConfig, OptimizerConfig, ParallelConfig
from inception_jax.models.network import create
from inception_jax.models.summary import summarise
from inception_jax.planning import aot, aot_worker
from inception_jax.planning.aot import CompiledStep, TooLarge
from inception_jax.planning.roofline import GIB
from inception_jax.runtime.devices import all_devices
from inception_jax.training.from_config import network_for
from inception_jax.training.state import state_shapes, tree_bytes
from tests.planning.examples import CONFIG, MOVEMENT, STAGES, compiled_step
from tests.test_imports import ROOT, SOURCES, local_imports


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, with libtpu seemingly installed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    versions = {"libtpu": "0.0.1"}
    monkeypatch.setattr(aot, "version", lambda name: versions.get(name, "1.0"))
    return tmp_path / "inception_jax" / "plan"


CHANGES = [
    {"network": "inception_v3"},
    {"batch_size": 1280},
    {"image_size": 331},
    {"dtype": "float32"},
    {"accumulate": 2},
    {"remat": True},
    {"bn_scale": True},
    {"aux_head": True},
    {"residual_scale": 0.1},
    {"probe_every": 5},
    {"parallel": ParallelConfig("shard_map", "global")},
    {"augment": AugmentConfig(color=False)},
    {"optimizer": OptimizerConfig(clip_norm=2.0)},
]


def test_the_key_depends_on_everything_that_affects_the_step(cache, monkeypatch, tmp_path):
    configs = [CONFIG, *(replace(CONFIG, **change) for change in CHANGES)]
    keys = [aot.cache_key(config, "v5e:4x4") for config in configs]
    keys.append(aot.cache_key(CONFIG, "v5e:2x2"))
    for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "--xla_something=1")
            keys.append(aot.cache_key(CONFIG, "v5e:4x4"))
    for package in aot.PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(aot, "version", lambda name, p=package: str(name == p))
            keys.append(aot.cache_key(CONFIG, "v5e:4x4"))
    with monkeypatch.context() as patch:
        patch.setattr(aot, "SOURCE_FILES", aot.SOURCE_FILES[1:])
        keys.append(aot.cache_key(CONFIG, "v5e:4x4"))
    assert len(set(keys)) == len(keys)
    same = replace(CONFIG, seed=3, epochs=2.0, workdir=tmp_path, log_every=7)
    assert aot.cache_key(same, "v5e:4x4") == keys[0]


def test_the_key_covers_every_source_file_of_the_compiled_step():
    reached, more = set(), {"inception_jax.planning.aot_worker"}
    while more:
        reached |= more
        more = {name for module in more for name in local_imports(module)} - reached
    package = ROOT / "inception_jax"
    paths = [SOURCES[name].relative_to(package) for name in reached]
    modules = {path.with_suffix("").as_posix() for path in paths}
    covered = {name for name in modules if any(fnmatch(name, p) for p in aot.SOURCE_FILES)}
    # These do not affect a compiled program.
    assert modules - covered == {
        *("data/crops", "data/optional", "storage/files", "storage/run_folder")
    }


def test_a_step_is_compiled_once(cache, monkeypatch):
    figures = {
        "chips": 16,
        "seconds": 1.0,
        "memory": compiled_step().memory,
        "flops": 1.0,
        "movement": vars(MOVEMENT),
        "stages": [vars(stage) for stage in STAGES],
        "macs": 1,
        "params": 1,
        "statistics": 1,
    }
    replies = [{"compiled": figures}, {"refused": vars(TooLarge(9, 8, 1.0))}]
    logged, requested = [], []

    def run_worker(module, request):
        requested.append(request["topology"])
        return replies[request["config"]["batch_size"] == 32]

    monkeypatch.setattr(aot, "run_worker", run_worker)

    def get(batch_size: int = 16, fresh: bool = False):
        config = replace(CONFIG, batch_size=batch_size)
        return aot.load_or_compile(config, "v5e:4x4", fresh=fresh, log=logged.append)

    expected = {**figures, "movement": MOVEMENT, "stages": STAGES}
    assert get() == get() == CompiledStep(**expected)
    assert get(32) == get(32) == TooLarge(9, 8, 1.0)
    assert len(requested) == 2
    assert "inception_v4 for v5e:4x4, 16 images" in logged[0]
    get(fresh=True)
    assert len(requested) == 3
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in (cache, cache.parent))
    for path in cache.iterdir():
        path.write_text(path.read_text()[:40])
    get()
    assert len(requested) == 4


def test_needed_memory_excludes_results_stored_in_place():
    memory = {"arguments": 10, "results": 9, "reused": 8, "temporary": 100, "code": 1000}
    assert replace(compiled_step(), memory=memory).needed == 10 + 1 + 100 + 1000


# The worker, which compiles here for the CPU devices of the tests.


def test_the_training_step_is_compiled(tiny, monkeypatch):
    monkeypatch.setattr(aot_worker, "compile_only_tpus", lambda topology: all_devices())
    config = replace(tiny, batch_size=64, parallel=ParallelConfig("shard_map"))
    whole = aot_worker.compile_step(config, "v5e:2x2")["compiled"]
    assert whole["chips"] == 4
    # The state is donated, and gradients and batch statistics are averaged in float32.
    assert whole["memory"]["reused"] > 3 * 4 * whole["params"]
    averaged = 4 * (whole["params"] + whole["statistics"])
    reduced = whole["movement"]["bytes"]["all-reduce"]
    assert averaged < reduced < averaged + 100
    stages = whole["stages"]
    assert [stage["stage"] for stage in stages][-3:] == ["global_pool", "Logits", ""]
    assert sum(stage["macs"] for stage in stages) == whole["macs"]
    moved = sum(stage["hbm_bytes"] for stage in stages)
    assert moved == whole["movement"]["hbm_bytes"]
    assert all(stage["hbm_bytes"] for stage in stages if stage["macs"])
    # Six operations per multiply-accumulate, and those outside convolutions.
    assert 16 * 6 * whole["macs"] < whole["flops"] < 3 * 16 * 6 * whole["macs"]
    parts = aot_worker.compile_step(replace(config, accumulate=4), "v5e:2x2")["compiled"]
    assert parts["flops"] == pytest.approx(whole["flops"], rel=0.25)
    with pytest.raises(ValueError, match="at least"):
        aot_worker.compile_step(replace(config, image_size=1), "v5e:2x2")


def test_copies_of_stale_replicas_are_counted(tiny):
    def held(replicas: int) -> int:
        parallel = ParallelConfig("shard_map", stale_replicas=replicas)
        config = replace(tiny, batch_size=64, parallel=parallel)
        network = network_for(config, 10, 4)
        lowered = aot_worker.lower_step(config, network, all_devices())
        return tree_bytes(lowered.in_avals)

    config = replace(tiny, batch_size=64)
    params = state_shapes(network_for(config, 10), config.optimizer).params
    three_numbers = 3 * 4
    assert held(5) - held(1) == 5 * tree_bytes(params) + three_numbers


def test_the_blocks_of_a_stage_are_added_up():
    kernel = (
        "  %{0} = f32[100]{{0}} custom-call(%a), metadata={{op_name="
        '"jit(step)/jvp(Network)/{0}/add"}}, backend_config={{"estimated_cycles":"7"}}'
    )
    lines = [kernel.format(name) for name in ("block8_1", "block8_2", "Logits", "psum")]
    hlo = "\n".join(["ENTRY %main (a: f32[100]) -> f32[100] {", *lines, "}"])
    stages = aot_worker.stage_work(summarise(create("inception_resnet_small")), hlo)
    figures = [(s["stage"], s["hbm_bytes"], s["cycles"]) for s in stages[2:]]
    assert figures == [
        ("block8_1 .. block8_10", 2 * 400, 2 * 7),
        ("global_pool", 0, 0),
        ("Logits", 400, 7),
        ("", 400, 7),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: ... Used 17.71G of 15.75G hbm. Exceeded hbm capacity by",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.71G) exceeds available HBM (15.75G).",
    ],
)
def test_out_of_memory_messages_are_parsed(text):
    sizes = aot_worker.parse_out_of_memory(RuntimeError(text))
    assert sizes == {"needed": round(17.71 * GIB), "available": round(15.75 * GIB)}
    with pytest.raises(RuntimeError, match="something else"):
        aot_worker.parse_out_of_memory(RuntimeError("something else"))
