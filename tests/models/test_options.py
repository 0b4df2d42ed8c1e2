# SPDX-License-Identifier: Apache-2.0
"""The options of the residual sum and of the pool, against NumPy in double precision."""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax import SPECS
from inception_jax.models.ablation import ablated
from inception_jax.models.fused import FUSED, BatchNorm
from inception_jax.models.inception_c import InceptionResNetC, residual_c_branches
from inception_jax.models.residual import ResidualBlock, ResidualOptions
from inception_jax.models.spec import INITIALIZERS
from inception_jax.models.summary import summarise
from tests.models.test_counts import EXPECTED
from tests.models.tiny import BLOCKS, one_block, three_grids

SHAPE = (3, 4, 5, 6)
SCALE = 0.7
BRANCHES = residual_c_branches(2, (3, 4, 5))

CASES = {
    "the paper's": {},
    "scalar": {"learned_scale": "scalar", "learned_scale_init": 0.5},
    "channel": {"learned_scale": "channel", "learned_scale_init": 0.5},
    "norm": {"norm": True},
    "leaky": {"activation": "leaky_relu"},
    "pre": {"activation": "pre"},
    "no shortcut": {"shortcut": False},
    "all": {
        **{"learned_scale": "channel", "norm": True},
        **{"activation": "pre", "shortcut": False},
    },
}


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0)


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def normed(x: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    """Normalise with the statistics of the batch, as in training."""
    params = jax.tree.map(np.asarray, params)
    x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3)
    return x * params["scale"] + params["bias"]


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    height, width = kernel.shape[:2]
    pads = [(0, 0), (height // 2,) * 2, (width // 2,) * 2, (0, 0)]
    x, (_, h, w, _) = np.pad(x, pads), x.shape
    return sum(
        x[:, i : i + h, j : j + w] @ kernel[i, j]
        for i in range(height)
        for j in range(width)
    )


def block(
    params: dict, x: np.ndarray, options: ResidualOptions, *, on: bool = True
) -> np.ndarray:
    """Compute a block of `BRANCHES` in training; `on`: its sum has an activation."""
    columns = []
    for branch in (params["Branch_0"], params["Branch_1"]):
        y = relu(x) if options.activation == "pre" else x
        for name in sorted(branch):
            y = relu(
                normed(convolved(y, branch[name]["conv"]["kernel"]), branch[name]["bn"])
            )
        columns.append(y)
    linear = params["Conv2d_1x1"]
    y = convolved(np.concatenate(columns, -1), linear["kernel"]) + linear["bias"]
    y = normed(y, params["bn"]) if options.norm else y
    y = SCALE * params.get("learned_scale", 1.0) * y
    y = x + y if options.shortcut else y
    if not on:
        return y
    return leaky(y) if options.activation == "leaky_relu" else relu(y)


def random(tree: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0.2, 0.7, leaf.shape), tree)


def single(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def block_and_params(**fields: Any) -> tuple[ResidualBlock, dict]:
    module = InceptionResNetC(BRANCHES, layers=FUSED, **fields)
    x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    assert set(variables) == {"params", "batch_stats"}  # nothing is sown by init
    return module, random(variables["params"], 1)


def in_training(module: ResidualBlock):
    def run(params: dict, x: jax.Array, scale: float = SCALE) -> jax.Array:
        empty = jax.eval_shape(module.init, jax.random.key(0), x)["batch_stats"]
        stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), empty)
        variables = {"params": params, "batch_stats": stats}
        return module.apply(variables, x, scale, train=True, mutable=["batch_stats"])[0]

    return jax.jit(run)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_block_and_its_derivative(changes, last):
    """The derivative is along a random direction of all parameters and the input."""
    options = ResidualOptions(**changes)
    module, params = block_and_params(options=options, is_last=last)
    x = random(jnp.zeros(SHAPE), 2)
    on = last or options.activation != "pre"
    run = in_training(module)
    expected = block(params, x, options, on=on)
    assert (expected < 0).any() == (not on or options.activation == "leaky_relu")
    np.testing.assert_allclose(run(single(params), single(x)), expected, rtol=0, atol=1e-5)

    point = params, x
    direction = random(point, 3)
    above, below = (
        block(*jax.tree.map(lambda p, d, e=e: p + e * d, point, direction), options, on=on)
        for e in (1e-7, -1e-7)
    )
    # The fast layers have no forward mode, so all rows of the Jacobian are computed.
    rows = jax.jit(jax.vmap(jax.vjp(run, single(params), single(x))[1]))(
        jnp.eye(expected.size).reshape(-1, *expected.shape)
    )
    slope = sum(
        row.reshape(expected.size, -1) @ np.ravel(along)
        for row, along in zip(
            jax.tree.leaves(rows), jax.tree.leaves(direction), strict=True
        )
    ).reshape(expected.shape)
    scale = np.abs(above - below).max() / 2e-7
    np.testing.assert_allclose(slope, (above - below) / 2e-7, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "pre"])
def test_a_block_without_relu_has_none_with_any_activation(activation):
    """The last block of the published networks has none."""
    options = ResidualOptions(activation=activation)
    module, params = block_and_params(options=options, is_last=True, relu=False)
    x = random(jnp.zeros(SHAPE), 2)
    expected = block(params, x, options, on=False)
    got = in_training(module)(single(params), single(x))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_gradient_of_the_learned_scales():
    """A scalar's gradient is the sum over channels, each computed from the residual."""
    x, weights = random(jnp.zeros(SHAPE), 2), random(jnp.zeros(SHAPE), 4)
    module, params = block_and_params()
    linear = block(params, x, ResidualOptions(), on=False)
    by_position = weights * (linear > 0) * (linear - x)
    for kind, expected in (
        ("channel", by_position.sum((0, 1, 2))),
        ("scalar", by_position.sum()),
    ):
        module, _ = block_and_params(options=ResidualOptions(learned_scale=kind))
        run = in_training(module)
        with_scale = params | {"learned_scale": np.ones(expected.shape)}

        def loss(params, run=run):
            return jnp.sum(single(weights) * run(params, single(x)))

        got = jax.grad(loss)(single(with_scale))["learned_scale"]
        np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["scalar", "channel"])
def test_initial_values_of_learned_scales(kind):
    options = ResidualOptions(learned_scale=kind, learned_scale_init=0.25)
    module = InceptionResNetC(BRANCHES, options=options)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros(SHAPE))
    learned = variables["params"]["learned_scale"]
    assert learned.shape == ((6,) if kind == "channel" else ())
    np.testing.assert_array_equal(learned, 0.25)


def test_feature_maps_stay_bfloat16():
    """Parameters are float32; feature maps up to the pool are bfloat16."""
    residual = ResidualOptions("channel", 0.5, norm=True, activation="pre")
    spec = one_block(pool_norm="before_relu", residual=residual)
    network = inception_jax.create(spec, dtype=jnp.bfloat16)
    images = jnp.zeros((1, *spec.image_shape))
    (_, endpoints), variables = jax.eval_shape(
        network.init_with_output, jax.random.key(0), images
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert endpoints["block8_1"].dtype == endpoints["PrePool"].dtype == jnp.bfloat16


def seen(spec: inception_jax.NetworkSpec, scale: float | None = None):
    """Return endpoints, scaled residuals and parameters of a network in training."""
    network = inception_jax.create(spec)
    images = jax.random.uniform(jax.random.key(1), (4, *spec.image_shape), minval=-1.0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    params = single(random(shapes["params"], 5))
    stats = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["batch_stats"])

    @jax.jit
    def run(params, images):
        (_, endpoints), sown = network.apply(
            {"params": params, "batch_stats": stats},
            *(images, scale),
            train=True,
            mutable=["batch_stats", "intermediates"],
        )
        return endpoints, sown["intermediates"]

    endpoints, sown = run(params, images)
    residuals = {name: values["residual"] for name, values in sown.items()}
    assert all(len(values) == 1 for values in residuals.values())
    return endpoints, {name: values[0] for name, values in residuals.items()}, params


def test_the_last_blocks_of_the_grids():
    assert three_grids().last_of_grids == {BLOCKS[0], BLOCKS[3], BLOCKS[5]}
    assert SPECS["inception_v4"].last_of_grids == frozenset()


@pytest.mark.parametrize(
    ("changes", "activations"),
    [
        ({}, [relu] * 5 + [None]),
        ({"activation": "leaky_relu"}, [leaky] * 5 + [None]),
        # The last block of each grid keeps its ReLU; the published last block has none.
        ({"activation": "pre"}, [relu, None, None, relu, None, None]),
        ({"shortcut": False}, [relu] * 5 + [None]),
    ],
    ids=["relu", "leaky", "pre", "no shortcut"],
)
def test_every_sum_of_a_network(changes, activations):
    """Each block's endpoint follows from the previous one and the sown residual."""
    options = ResidualOptions(**changes)
    endpoints, residuals, _ = seen(three_grids(residual=options), 0.5)
    assert set(residuals) == set(BLOCKS)
    before = ["Conv2d_2a_2x2", "Mixed_6a", *BLOCKS[1:3], "Mixed_7a", BLOCKS[4]]
    for name, previous, activation in zip(BLOCKS, before, activations, strict=True):
        expected = residuals[name] + (endpoints[previous] if options.shortcut else 0.0)
        if activation:
            expected = activation(np.asarray(expected))
        np.testing.assert_allclose(endpoints[name], expected, rtol=1e-5, atol=1e-6)
    assert endpoints["PreAuxLogits"].min() >= 0 or activations[3] is leaky


def test_the_published_residuals_are_scaled_when_sown():
    (_, published, _), (_, unscaled, _) = seen(one_block()), seen(one_block(), 1.0)
    expected = 0.1 * unscaled["block8_1"]
    np.testing.assert_allclose(published["block8_1"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "pre"])
@pytest.mark.parametrize("where", ["none", "before_relu", "after_relu"])
def test_norm_before_the_pool(where, activation):
    spec = one_block(pool_norm=where, residual=ResidualOptions(activation=activation))
    endpoints, residuals, params = seen(spec)
    active = leaky if activation == "leaky_relu" else relu
    total = np.asarray(endpoints["Conv2d_2a_2x2"] + residuals["block8_1"])
    if where == "before_relu":
        block, before_pool = total, active(normed(total, params["PrePool"]))
    else:
        block = before_pool = active(total)
        if where == "after_relu":
            before_pool = normed(block, params["PrePool"])
    np.testing.assert_allclose(endpoints["block8_1"], block, rtol=0, atol=1e-5)
    np.testing.assert_allclose(endpoints["PrePool"], before_pool, rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        endpoints["global_pool"], before_pool.mean((1, 2)), rtol=0, atol=1e-4
    )
    assert ("PrePool" in params) == (where != "none")


def test_the_final_convolution_is_averaged():
    endpoints, _, _ = seen(three_grids(final_conv=6))
    np.testing.assert_array_equal(endpoints["PrePool"], endpoints["Conv2d_7b_1x1"])


def test_added_norms_use_the_settings_of_the_network():
    """They have no gamma if it has none, and its decay."""
    spec = one_block(pool_norm="after_relu", residual=ResidualOptions(norm=True))
    network = inception_jax.create(spec, bn_scale=False, bn_decay=0.5)
    norms = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            norms.append((context.module.epsilon, context.module.momentum))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    assert norms == [(1e-3, 0.5)] * 5  # stem, branch, residual and pool
    for path in (("block8_1", "bn"), ("PrePool",)):
        params = shapes["params"]
        for name in path:
            params = params[name]
        assert set(params) == {"bias"}


# Changes, and the number of parameters that they add to a block of c channels.
ADDED = {
    "scalar": (
        {"learned_scale": "scalar", "activation": "leaky_relu", "pool_norm": "after_relu"},
        lambda c: 1,
    ),
    "channel": (
        {"learned_scale": "channel", "activation": "pre", "residual_norm": True},
        lambda c: 3 * c,
    ),
    "before ReLU": ({"pool_norm": "before_relu"}, lambda c: 0),
}
# Residual blocks and channels of each grid, and the channels before the pool.
STREAMS = {
    "resnet-v1": (((5, 256), (10, 896), (5, 1792)), 1792),
    "resnet-v2": (((10, 320), (20, 1088), (10, 2080)), 1536),
}


@pytest.mark.parametrize(
    ("key", "option"),
    [
        pytest.param(key, option, marks=[pytest.mark.slow] if key == "resnet-v2" else [])
        for key in STREAMS
        for option in ADDED
        if (key, option) != ("resnet-v2", "before ReLU")
    ],
)
def test_parameters_and_cost_of_full_networks(key, option):
    """No multiply-accumulate is added, and every parameter is in some row."""
    (name, _, _), base = EXPECTED[key]
    changes, per_block = ADDED[option]
    grids, pooled = STREAMS[key]
    added = sum(count * per_block(channels) for count, channels in grids)
    added += 2 * pooled * ("pool_norm" in changes)
    figures = summarise(inception_jax.create(ablated(SPECS[name], **changes)))
    assert (figures.params, figures.macs) == (base.gamma_beta + added, base.macs)
    row = [row for row in figures.rows if row.stage == "PrePool"]
    assert [r.params for r in row] == [2 * pooled] * ("pool_norm" in changes)


def test_no_change_gives_the_same_network():
    for name, spec in SPECS.items():
        assert (spec.residual, spec.pool_norm) == (ResidualOptions(), "none"), name
        if spec.default_scales:
            assert ablated(spec) == spec


def test_every_change_is_applied():
    spec = ablated(
        SPECS["inception_resnet_v1"],
        kernel_init="lecun",
        residual_init="zeros",
        learned_scale="channel",
        learned_scale_init=0.1,
        residual_norm=True,
        activation="leaky_relu",
        pool_norm="after_relu",
    )
    assert spec.kernel_init is INITIALIZERS["lecun"]
    assert spec.residual_init is INITIALIZERS["zeros"]
    assert spec.residual == ResidualOptions("channel", 0.1, True, "leaky_relu")
    assert spec.pool_norm == "after_relu"


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4"])
def test_ablation_of_a_network_without_residuals(name):
    with pytest.raises(ValueError, match=r"with residual blocks.*; leave it out\.$"):
        ablated(SPECS[name], activation="pre")


@pytest.mark.parametrize("field", ["kernel_init", "residual_init"])
def test_unknown_initialiser(field):
    with pytest.raises(ValueError, match=f"^{field} must be one of glorot.*got 'xavier'"):
        ablated(one_block(), **{field: "xavier"})


@pytest.mark.parametrize(
    ("name", "where", "message"),
    [
        ("inception_resnet_v2", "before_relu", "needs a residual sum .* use 'after_relu'"),
        ("inception_v4", "before_relu", "needs a residual sum .* use 'after_relu'"),
        ("inception_resnet_v1_facenet", "before_relu", "needs a ReLU .* leave it out"),
        ("inception_resnet_v1_facenet", "after_relu", "needs a ReLU .* leave it out"),
    ],
)
def test_norm_before_the_pool_of_an_unsuitable_network(name, where, message):
    with pytest.raises(ValueError, match=f"^pool_norm='{where}' {message}"):
        inception_jax.create(replace(SPECS[name], pool_norm=where))
