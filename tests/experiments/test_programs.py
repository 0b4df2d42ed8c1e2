# SPDX-License-Identifier: Apache-2.0
"""Networks, data and values of runs."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from experiments.residual_scaling.design.plans import PLANS
from experiments.residual_scaling.design.runs import FULL_WIDTHS, Run
from experiments.residual_scaling.run.generated import GENERATED, GeneratedExamples
from experiments.residual_scaling.run.programs import (
    OPTIMIZER,
    Programs,
    _init,
    open_data,
    spec_of,
    values_of,
)
from inception_jax.runtime.parallel import PerDevice


def every_shape() -> list[Run]:
    """Return the shapes of all plans, with stages of two blocks to save tracing time."""
    runs = [run for plan in PLANS.values() for g in plan.groups for run in g.settings]
    shapes = [replace(run.program, init=run.init, replicas=1) for run in runs]
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
    last = endpoints["PrePool"]
    size = {8: 4, 75: 1, 149: 3}[shape.image_size]
    assert last.shape[1:3] == (size, size)
    if shape.block != "concat" and shape.head == "paper":
        assert last.shape[3] == shape.width


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
        *({"data": "endless", "width": 16}, {"width": 16}, {"depth": 2}, {"block": "v2"}),
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


@pytest.mark.parametrize("name", GENERATED)
def test_generated_data_fit_the_network(name):
    run = Run(data=name, width=8, depth=1)
    data = {split: open_data(run, split, None) for split in ("train", "eval")}
    sizes = GENERATED[name].train, GENERATED[name].test
    assert tuple(map(len, data.values())) == sizes
    assert len(data["train"].class_names) == GENERATED[name].classes
    assert data["train"].examples[0]["image"].shape == spec_of(run).image_shape


@pytest.mark.parametrize("name", GENERATED)
def test_generated_images_differ_by_class_and_example_and_are_the_same_every_time(name):
    train, again = (GeneratedExamples(name, "train", (4, 4, 3)) for _ in range(2))
    evaluation = GeneratedExamples(name, "eval", (4, 4, 3))
    classes = GENERATED[name].classes
    one_class = [train[i * classes]["image"].astype(float) for i in range(40)]
    np.testing.assert_array_equal(train[7]["image"], again[7]["image"])
    assert not np.array_equal(train[0]["image"], train[classes]["image"])
    assert not np.array_equal(train[0]["image"], evaluation[0]["image"])
    assert np.std(one_class, axis=0).mean() == pytest.approx(36, rel=0.1)
    # Images of the other split are nearest to the mean of their own class.
    means = np.stack([train.means[k] for k in range(classes)])
    images = np.stack([evaluation[i]["image"] for i in range(200)]).astype(float)
    nearest = np.square(images[:, None] - means).sum(axis=(2, 3, 4)).argmin(axis=1)
    labels = [evaluation[i]["label"] for i in range(200)]
    assert np.mean(nearest == labels) > 0.6
    assert labels == [i % classes for i in range(200)]
    with pytest.raises(IndexError):
        train[len(train)]


def test_one_training_label_in_ten_is_random():
    train = GeneratedExamples("endless", "train", (8, 8, 1))
    wrong = np.mean([train[i]["label"] != i % 10 for i in range(2000)])
    assert wrong == pytest.approx(0.09, abs=0.02)  # a tenth of them are right by chance


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
