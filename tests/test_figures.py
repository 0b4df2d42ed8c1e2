# SPDX-License-Identifier: Apache-2.0
"""Figures that cannot vary from run to run, against those in goldens/figures.json.

After a change that is meant to move them, store them anew and commit the file with it:

    FIGURES=store python -m pytest -n 0 --slow tests/test_figures.py

Figures of traces hold for every version. Those of what XLA made of them belong to a
jaxlib; a version that the file does not have is skipped, and storing adds it.
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
from inception_jax.models.network import get_spec
from inception_jax.models.spec import NetworkSpec
from inception_jax.runtime.parallel import DataParallel, all_devices
from inception_jax.training.from_config import numbers_for
from inception_jax.training.step import TrainOptions, state_shapes, train_step
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
# Each trace takes a second: by default the two that the paper is about.
MAIN = ("inception_v4", "inception_resnet_v2")
Figures = dict[str, int]


def networks() -> list[Any]:
    return [
        pytest.param(name, marks=() if name in MAIN else pytest.mark.slow)
        for name in inception_jax.list_networks()
    ]


def check(group: str, name: str, found: Figures) -> None:
    """Compare with what is stored under `group` and `name`, or store it."""
    figures = stored()
    if STORING:
        figures.setdefault(group, {})[name] = found
        text = json.dumps(figures, indent=1, sort_keys=True)
        STORED.write_text(f"{text}\n", encoding="utf-8")
        return
    changes = differences(name, figures[group].get(name, {}), found)
    assert not changes, "\n".join([*changes, f"If this is meant: {STORE}"])


def stored() -> dict[str, dict[str, Figures]]:
    return json.loads(STORED.read_text(encoding="utf-8"))


@pytest.fixture
def of_xla() -> str:
    """The group of this jaxlib's figures; without one there is nothing to compare."""
    group = f"jaxlib {jaxlib.__version__}"
    if not STORING and group not in stored():
        pytest.skip(f"no figures of {group} are stored; to store them: {STORE}")
    return group


def differences(name: str, stored: Figures, found: Figures) -> list[str]:
    """A line for each figure that is not as stored."""
    return [
        f"{name}: {figure}: stored {stored.get(figure)}, found {found.get(figure)}"
        for figure in sorted(stored | found)
        if stored.get(figure) != found.get(figure)
    ]


def traced(jaxpr: Any) -> Figures:
    """What a trace computes, with everything it calls."""
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
    """Of a convolution or matrix product; those with the zeros of a dilation count."""
    left, right = (x.aval.shape for x in equation.invars)
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "dot_general":
        summed = math.prod(left[axis] for axis in numbers[0][0])
    else:
        summed = math.prod(right) // right[numbers.rhs_spec[0]]
    return equation.outvars[0].aval.size * summed


def arguments(spec: NetworkSpec) -> tuple[Any, dict, jax.ShapeDtypeStruct]:
    """The network in bfloat16, its variables and an image, as shapes."""
    network = inception_jax.create(spec, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    return network, jax.eval_shape(network.init, jax.random.key(0), images), images


def first_blocks(spec: NetworkSpec) -> NetworkSpec:
    """The first block of every stage: each kind of block once, in its own size."""
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
    found = traced(jax.make_jaxpr(forward)(variables, images).jaxpr)
    check("first block of each stage, training, forward", name, found)


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
    check("whole network, gradients", name, traced(gradients.jaxpr))
    inference = jax.make_jaxpr(network.apply)(variables, images)
    check("whole network, inference", name, traced(inference.jaxpr))


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("one block", one_block()),
        pytest.param("each kind of block", three_grids(), marks=pytest.mark.slow),
    ],
)
def test_the_compiled_step(name, spec, of_xla):
    """For a CPU, with update, averages and all."""
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
    step = DataParallel(
        partial(train_step, options=options),
        ParallelConfig("shard_map"),
        all_devices()[:1],
    )
    state = state_shapes(options.network, config.optimizer)
    lowered = step.lower(state, batch, jax.eval_shape(partial(numbers_for, config)))
    # What the tests' own flags leave out is part of the program; later versions have no
    # such option, and always do.
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
    check(of_xla, f"compiled step, {name}", figures)


def test_programs_of_a_training_run(tiny, tmp_path, compilations, of_xla):
    """Each is compiled once, however many steps and evaluations there are."""
    jax.clear_caches()  # otherwise other tests' programs serve this run, too
    config = replace(tiny, workdir=tmp_path / "run", eval_every=1e-9)
    found = {"programs": compiled_by(compilations, config)}
    check(of_xla, "training run", found)


def test_a_change_is_named():
    found = {"convolutions": 3, "pools": 1}
    stored = {"convolutions": 2, "pools": 1, "fusions": 4}
    assert differences("inception_v4", stored, found) == [
        "inception_v4: convolutions: stored 2, found 3",
        "inception_v4: fusions: stored 4, found None",
    ]
