# SPDX-License-Identifier: Apache-2.0
"""Networks, data and values of runs."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from experiments.residual_scaling import programs
from experiments.residual_scaling.plans import PLANS
from experiments.residual_scaling.programs import (
    OPTIMIZER,
    Programs,
    _init,
    open_data,
    spec_of,
    values_of,
)
from experiments.residual_scaling.prototypes import open_prototypes
from experiments.residual_scaling.runs import FULL_WIDTHS, Run
from inception_jax.runtime.parallel import PerDevice


def every_shape() -> list[Run]:
    """Return the shapes of all plans, with stages of two blocks to save tracing time."""
    runs = [run for plan in PLANS.values() for g in plan.groups for run in g.settings]
    shapes = [replace(run.shape, init=run.init, steps=1) for run in runs]
    short = [s if s.network in FULL_WIDTHS else replace(s, depth=2) for s in shapes]
    return list(dict.fromkeys(short))


@pytest.mark.parametrize("shape", every_shape(), ids=lambda run: run.description)
def test_every_network_of_the_plans_can_be_made(shape):
    spec = spec_of(shape)
    network = inception_jax.create(spec, num_classes=10)
    images = jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32)
    scale = values_of(shape).numbers.residual_scale
    (_, endpoints), _ = jax.eval_shape(
        network.init_with_output, jax.random.key(0), images, scale
    )
    last = endpoints[spec.stages[-1].names[-1]]
    assert last.shape[1:3] == ((1, 1) if shape.network in FULL_WIDTHS else (4, 4))
    assert last.shape[3] == shape.width or shape.block == "concat"


def test_values_are_those_of_the_run():
    run = Run(depth=3, scale=0.3, learning_rate=0.2, clip_norm=2.0, seed=4, momentum=0.5)
    numbers = values_of(run).numbers
    np.testing.assert_allclose(numbers.residual_scale, [0.3] * 3)
    assert float(numbers.optimizer.learning_rate) == pytest.approx(0.2)
    assert float(numbers.optimizer.clip_norm) == 2.0
    assert float(numbers.optimizer.momentum) == 0.5
    assert int(numbers.seed) == 4
    unclipped = values_of(replace(run, clip_norm=None)).numbers
    assert np.isinf(unclipped.optimizer.clip_norm)
    published = values_of(Run(depth=3, scale=None, head="published")).numbers
    np.testing.assert_allclose(published.residual_scale, [0.1, 0.1, 1.0])
    assert values_of(Run(block="concat")).numbers.residual_scale is None


def test_values_of_optimizer_and_initialisation_are_those_of_the_run():
    given = {"warmup_steps": 7, "warmup_rate": 0.25, "classifier_rate": 0.5}
    given |= {"linear_rate": 0.125, "momentum": 0.75, "clip_norm": 2.0}
    values = values_of(
        Run(**given, warmup="linear", init_gain=0.5, learned_scale_init=0.0625)
    )
    optimizer = values.numbers.optimizer
    assert {name: float(getattr(optimizer, name)) for name in given} == given
    assert optimizer.warmup_linear == 1
    assert (values.init_gain, values.learned_scale_init) == (0.5, 0.0625)


@pytest.mark.parametrize(
    "change",
    [
        *({"network": "BC", "block": "v2"}, {"width": 16}, {"depth": 2}, {"block": "v2"}),
        *({"block": "plain"}, {"block": "concat"}, {"head": "published"}),
        *({"activation": "pre"}, {"pool_norm": "before_relu"}, {"residual_norm": True}),
        *({"learned_scale": "scalar"}, {"init": "glorot"}, {"data": "prototypes"}),
    ],
    ids=str,
)
def test_what_is_compiled_changes_the_network(change):
    run = Run(width=8, depth=1)
    assert traced(run) == traced(run)
    assert traced(replace(run, **change)) != traced(run)


def traced(run: Run) -> str:
    """Return the computation of initialisation and a forward pass."""
    spec = spec_of(run)
    network = inception_jax.create(spec, num_classes=10)
    make = jax.make_jaxpr(network.init_with_output)
    return str(make(jax.random.key(0), jnp.zeros((1, *spec.image_shape))))


def test_programs_are_those_of_the_run():
    shape = Run(width=8, depth=1, dtype="bfloat16", optimizer="momentum", batch_size=5)
    programs = Programs(shape, 50, 10, jax.local_devices())
    assert programs.options["dtype"] == jnp.bfloat16
    assert programs.optimizer == replace(OPTIMIZER, kind="momentum")
    assert OPTIMIZER.decay_rate == 1.0, "the learning rate must be constant"
    assert OPTIMIZER.weight_decay == 0.0


def test_gain_and_learned_scale_start_as_the_run_says():
    run = Run(width=8, depth=1, learned_scale="channel", seed=3)
    options = {"network": inception_jax.create(spec_of(run)), "optimizer": OPTIMIZER}
    init = jax.jit(partial(_init, **options))
    plain = init(values_of(run))
    changed = init(values_of(replace(run, init_gain=0.5, learned_scale_init=0.25)))
    other_seed = init(values_of(replace(run, seed=4)))
    expected = jax.tree.map(np.array, plain.params)
    expected["block8_1"]["Conv2d_1x1"]["kernel"] *= 0.5
    expected["block8_1"]["learned_scale"][:] = 0.25
    jax.tree.map(np.testing.assert_array_equal, changed.params, expected)
    jax.tree.map(np.testing.assert_array_equal, changed.ema_params, expected)
    kernels = [s.params["Logits"]["kernel"] for s in (plain, other_seed)]
    assert not np.array_equal(*kernels)


@pytest.mark.parametrize(
    ("run", "size"),
    [
        (Run(data="prototypes"), (5_000, 100)),
        (Run(data="prototypes", network="BC", block="v2"), (20_000, 1000)),
    ],
    ids=["C", "BC"],
)
def test_prototypes_fit_the_network(run, size, monkeypatch):
    asked = []
    monkeypatch.setattr(programs, "open_prototypes", lambda *of: asked.append(of))
    open_data(run, "eval", None)
    classes, train = size[::-1]
    assert asked == [("eval", spec_of(run).image_shape, classes, train)]
    assert spec_of(run).image_shape[2] == 3


def test_prototypes_are_the_same_every_time_and_differ_by_class_and_example():
    train = open_prototypes("train", (4, 4, 3), 5, 50)
    again = open_prototypes("train", (4, 4, 3), 5, 50)
    evaluation = open_prototypes("eval", (4, 4, 3), 5, 50)
    assert (len(train), len(evaluation)) == (50, 1000)
    images = np.stack([example["image"] for example in train.examples]).astype(float)
    np.testing.assert_array_equal(images[7], again.examples[7]["image"])
    labels = np.array([example["label"] for example in train.examples])
    assert set(labels) == set(range(5))
    means = np.stack([images[labels == k].mean(axis=0) for k in range(5)])
    # The mean of another class's ten examples is further away than that of its own.
    new = np.stack([e["image"] for e in evaluation.examples[:50]]).astype(float)
    distances = np.square(new[:, None] - means).sum(axis=(2, 3, 4))
    found = distances.argmin(axis=1)
    assert np.mean(found == [e["label"] for e in evaluation.examples[:50]]) > 0.9
    assert not np.array_equal(images[0], images[5])  # two of one class
    assert not np.array_equal(images[0], new[0])  # the test images have their own noise
    assert np.std(images[labels == 0], axis=0).mean() == pytest.approx(36, rel=0.15)


def test_concurrent_runs_share_nothing():
    devices = jax.local_devices()[:2]

    def function(state, x):
        return state * 2, jax.lax.psum(x, "data")

    apply = PerDevice(function, devices, donate=True)
    state, total = apply(np.array([1.0, np.nan]), np.array([[3.0], [4.0]]))
    np.testing.assert_array_equal(state, [2.0, np.nan])
    np.testing.assert_array_equal(total, [[3.0], [4.0]])
    after, _ = apply(state, total)
    np.testing.assert_array_equal(after, [4.0, np.nan])
    assert state.is_deleted()
    keeping = PerDevice(function, devices)
    keeping(after, total)
    assert not after.is_deleted()
