# SPDX-License-Identifier: Apache-2.0
"""Deterministic figures of programs, such as operation counts, match goldens/figures.json.

After a change that is meant to alter them, store the new figures and commit the file:

    FIGURES=store python -m pytest -n 0 --slow tests/test_figures.py

Figures of traces hold for every version. Figures of compiled programs belong to one jaxlib:
tests are skipped for a version that the file lacks, and storing adds that version.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import pytest

import inception_jax
from inception_jax.config import ParallelConfig, PreprocessSpec, RunConfig
from inception_jax.models.spec import NetworkSpec
from inception_jax.models.zoo import get_spec
from inception_jax.runtime.devices import all_devices
from inception_jax.runtime.parallel import ShardMapStep
from inception_jax.training.from_config import numbers_for
from inception_jax.training.state import state_shapes
from inception_jax.training.step import TrainOptions, train_step
from tests.models.tiny import one_block, three_grids
from tests.runs import compiled_by

STORED = Path(__file__).parent / "goldens" / "figures.json"
STORING = os.environ.get("FIGURES") == "store"
STORE = "FIGURES=store python -m pytest -n 0 --slow tests/test_figures.py"
COUNTED = {
    "conv_general_dilated": "convolutions",
    "dot_general": "matrix products",
    "reduce_window_max": "max pools",
    "reduce_window_sum": "average pools",
    "select_and_scatter_add": "gradients of max pools",
    "rsqrt": "batch normalisations",
}
# A trace takes a second, so the other networks are slow tests.
MAIN = ("inception_v4", "inception_resnet_v2")
Figures = dict[str, int]


def networks() -> list[Any]:
    return [
        pytest.param(name, marks=() if name in MAIN else pytest.mark.slow)
        for name in inception_jax.list_networks()
    ]


def check(group: str, name: str, actual: Figures) -> None:
    """Compare figures with those stored under `group` and `name`, or store them."""
    figures = read_stored()
    if STORING:
        figures.setdefault(group, {})[name] = actual
        text = json.dumps(figures, indent=1, sort_keys=True)
        STORED.write_text(f"{text}\n", encoding="utf-8")
        return
    changes = differences(name, figures[group].get(name, {}), actual)
    assert not changes, "\n".join([*changes, f"If this is intended: {STORE}"])


def read_stored() -> dict[str, dict[str, Figures]]:
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.fixture
def jaxlib_group() -> str:
    """The group of this jaxlib's figures; skips the test if none are stored."""
    group = f"jaxlib {jaxlib.__version__}"
    if not STORING and group not in read_stored():
        pytest.skip(f"no figures of {group} are stored; to store them: {STORE}")
    return group


def differences(name: str, stored: Figures, actual: Figures) -> list[str]:
    """Return a line for each figure that differs from the stored one."""
    return [
        f"{name}: {figure}: stored {stored.get(figure)}, found {actual.get(figure)}"
        for figure in sorted(stored | actual)
        if stored.get(figure) != actual.get(figure)
    ]


def count_operations(jaxpr: Any) -> Figures:
    """Count the operations of a trace and of all functions that it calls."""
    counts: Counter[str] = Counter()
    for equation in equations(jaxpr):
        name = COUNTED.get(equation.primitive.name)
        counts.update([name] if name else [])
        if name in ("convolutions", "matrix products"):
            counts["multiply-accumulates"] += multiply_accumulates(equation)
    return dict(counts)


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def multiply_accumulates(equation: Any) -> int:
    """Return those of a convolution or matrix multiplication, with dilation's zeros."""
    left, right = (x.aval.shape for x in equation.invars)
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        summed = math.prod(left[axis] for axis in numbers[0][0])
    else:
        summed = math.prod(right) // right[numbers.rhs_spec[0]]
    return equation.outvars[0].aval.size * summed


def arguments(spec: NetworkSpec) -> tuple[Any, dict, jax.ShapeDtypeStruct]:
    """Return the network in bfloat16 and the shapes of its variables and an image."""
    network = inception_jax.create(spec, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    return network, jax.eval_shape(network.init, jax.random.key(0), images), images


def first_blocks(spec: NetworkSpec) -> NetworkSpec:
    """Keep the first block of every stage: each kind of block once, at its own size."""
    stages = tuple(replace(stage, names=stage.names[:1]) for stage in spec.stages)
    return replace(spec, stages=stages)


@pytest.mark.parametrize("name", networks())
def test_a_block_of_each_stage_forward(name):
    network, variables, images = arguments(first_blocks(get_spec(name)))
    forward = partial(
        network.apply,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
    )
    figures = count_operations(jax.make_jaxpr(forward)(variables, images).jaxpr)
    check("first block of each stage, training, forward", name, figures)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAIN)
def test_the_whole_network(name):
    network, variables, images = arguments(get_spec(name))
    rngs = {"dropout": jax.random.key(0)}

    def loss(params, batch_stats, images):
        (logits, _), updated = network.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs=rngs,
        )
        return jnp.mean(logits), updated

    gradients = jax.make_jaxpr(jax.grad(loss, has_aux=True))(
        variables["params"], variables["batch_stats"], images
    )
    check("whole network, gradients", name, count_operations(gradients.jaxpr))
    inference = jax.make_jaxpr(network.apply)(variables, images)
    check("whole network, inference", name, count_operations(inference.jaxpr))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("one block", one_block()),
        pytest.param("each kind of block", three_grids(), marks=pytest.mark.slow),
    ],
)
def test_the_compiled_step(name, spec, jaxlib_group):
    """The whole training step on a CPU, with update and moving averages."""
    spec = first_blocks(spec)
    config = RunConfig(batch_size=8)
    options = TrainOptions(
        inception_jax.create(spec),
        config.optimizer,
        100.0,
        preprocess=PreprocessSpec(spec.image_shape),
    )
    batch = {
        "image": jax.ShapeDtypeStruct((8, *spec.image_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    step = ShardMapStep(
        partial(train_step, options=options),
        ParallelConfig("shard_map"),
        all_devices()[:1],
    )
    state = state_shapes(options.network, config.optimizer)
    lowered = step.lower(state, batch, jax.eval_shape(partial(numbers_for, config)))
    # The tests' XLA_FLAGS turn these emitters off. From jax 0.11 they are always on.
    old = jax.__version_info__ < (0, 11)
    compiled = lowered.compile({"xla_cpu_use_fusion_emitters": True} if old else {})
    counts = Counter(re.findall(r" = \S+ ([\w-]+)\(", compiled.as_text()))
    figures = {
        "convolutions": counts["convolution"],
        "matrix products": counts["dot"],
        "fusions": counts["fusion"],
        "windows reduced": counts["reduce-window"],
        "operations": round(compiled.cost_analysis()["flops"]),
    }
    check(jaxlib_group, f"compiled step, {name}", figures)


def test_programs_of_a_training_run(tiny, tmp_path, compilations, jaxlib_group):
    """Each is compiled once, regardless of the number of steps and evaluations."""
    jax.clear_caches()  # otherwise the run would reuse programs of other tests
    config = replace(tiny, workdir=tmp_path / "run", eval_every=1e-9)
    figures = {"programs": compiled_by(compilations, config)}
    check(jaxlib_group, "training run", figures)


def test_every_difference_is_reported():
    actual = {"convolutions": 3, "pools": 1}
    stored = {"convolutions": 2, "pools": 1, "fusions": 4}
    assert differences("inception_v4", stored, actual) == [
        "inception_v4: convolutions: stored 2, found 3",
        "inception_v4: fusions: stored 4, found None",
    ]
