# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests: four CPU devices, no rank promotion, shapes checked."""

import gc
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Before jax is imported: four CPU devices stand in for a pod; no accelerator is used.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
# Each core has its own test process, so more threads would only compete.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxtyping
import pytest

# In the background of a shell, the tests and their children would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Every jaxtyping annotation of the package is checked while the tests run.
jaxtyping.install_import_hook("inception_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")
# One compilation cache for all test runs. Git ignores the folder.
CACHE = Path(__file__).parents[1] / ".cache" / "xla"
CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow", action="store_true", help="also run full-size networks (minutes)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Without --slow, optimise less: networks are tiny, and compilation dominates."""
    if config.getoption("--slow"):
        return
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    # Do not split code generation for 32 threads: each core has its own test process.
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"]
    if jax.__version_info__ < (0, 11):  # newer versions reject the flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)


def pytest_collection_modifyitems(config: pytest.Config, items: list) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow: add --slow to run it")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


# Traces and programs stay alive to the end. Those of a finished test file are frozen,
# because searching them for garbage again takes a quarter of the time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    yield
    gc.collect()
    gc.freeze()


# Fixtures import the package in their bodies, so that the import hook applies to it.


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for TFDS with `digits` and a tiny `imagenet2012` in it."""
    from inception_jax.data.digits import prepare_digits
    from tests.data.tiny_imagenet import prepare_tiny_imagenet

    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    prepare_digits(folder)
    prepare_tiny_imagenet(folder)
    return folder


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, data_dir: str):
    """The configuration of a run of one second on the digits, without a workdir."""
    from inception_jax.models.zoo import SPECS
    from tests.models.tiny import one_block
    from tests.runs import CONFIG

    monkeypatch.setitem(SPECS, "tiny", replace(one_block(), dropout_rate=0.2))
    return replace(CONFIG, data_dir=data_dir)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two classes with twelve JPEGs each to train on and four to test on."""
    import numpy as np
    import simplejpeg

    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for kind, name in enumerate("ab"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(100 * kind, 100 * kind + 100, (20, 30, 3), np.uint8)
                (folder / f"{name}{i}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))
    return tmp_path / "photos"


@pytest.fixture
def compilations() -> Iterator[list[float]]:
    """A list that grows by one with every program that XLA compiles."""
    events = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)
