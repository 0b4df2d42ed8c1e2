# SPDX-License-Identifier: Apache-2.0
"""What shows whether a network is about to die: the signals of section 3.3's study.

Pure functions of arrays; all have no unit unless they say so, and a value that is not
finite makes the means and norms it enters not finite. `signals` takes them of any network.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from inception_jax.models.network import Network, ResidualScale

Map = Float[Array, "n h w c"]  # what a layer gives for a batch of images
Logits = Float[Array | np.ndarray, "n k"]
Scalar = Float[Array, ""]
GROUPS = ("stem", "branches", "linear", "other", "classifier")
BLOCK_SIGNALS = (
    *("dead", "tiny", "dead_images", "stream_rms", "stream_mean"),
    *("residual_ratio", "residual_mean"),
)


def rms(x: Float[Array, "..."]) -> Scalar:
    """Root mean square, in the unit of `x`."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


def mean(x: Float[Array, "..."]) -> Scalar:
    """Mean, in the unit of `x`. ReLU'd sums let it grow with depth, the "mean shift" of
    Brock et al., arXiv 2101.08692."""
    return jnp.mean(x.astype(jnp.float32))


def dead(x: Map) -> Scalar:
    """Share of channels that are exactly zero for all images and positions.

    Section 3.3: "the last layer before the average pooling started to produce only zeros".
    A channel with a NaN is not zero.
    """
    return jnp.mean(_largest(x) == 0)


def tiny(x: Map) -> Scalar:
    """Share of channels, dead ones included, whose largest |value| is below 1e-3 of the
    map's RMS: as good as dead, but for rounding or a small bias."""
    largest = _largest(x)
    return jnp.mean((largest == 0) | (largest < 1e-3 * rms(x)))


def dead_images(x: Map) -> Scalar:
    """Share of images whose whole map is exactly zero: they all get the same logits."""
    return jnp.mean(jnp.all(x == 0, axis=(1, 2, 3)))


def residual_ratio(residual: Map, stream: Map) -> Scalar:
    """RMS of what is added to the stream, scale included, by the RMS of the stream before.

    De and Smith, arXiv 2002.10444: it decides which depth can be trained. NaN where both
    are zero.
    """
    return rms(residual) / rms(stream)


def feature_norm2(features: Float[Array, "n d"]) -> Scalar:
    """Mean over the images of the squared norm of their pooled features.

    The curvature that the classifier sees grows with it, and so does its step.
    """
    return jnp.mean(jnp.sum(jnp.square(features), axis=-1))


def classifier_curvature(
    features: Float[Array, "n d"], logits: Float[Array, "n k"], products: int = 20
) -> Scalar:
    """Largest eigenvalue of the loss Hessian's block of the classifier's kernel and bias.

    The loss is the mean cross-entropy, in nats, and p the softmax of the logits. Labels do
    not matter: for V `[d + 1, k]` the block is V -> mean of f (V^T f)^T (diag(p) - p p^T)
    with f = [features, 1]. It is positive semi-definite, so power iteration finds its
    largest eigenvalue (from below). Gradient descent with momentum b is unstable above
    2 (1 + b) / learning rate (Cohen et al., arXiv 2103.00065).
    """
    inputs = jnp.pad(features, ((0, 0), (0, 1)), constant_values=1.0)
    p = jax.nn.softmax(logits)

    def product(v: Float[Array, "d k"]) -> Float[Array, "d k"]:
        u = p * (inputs @ v)
        return inputs.T @ (u - p * jnp.sum(u, axis=-1, keepdims=True)) / len(inputs)

    def unit(v: Float[Array, "d k"]) -> Float[Array, "d k"]:
        # The block is zero where all of p are 0 or 1.
        return v / jnp.maximum(optax.tree.norm(v), jnp.finfo(v.dtype).tiny)

    # Any fixed start will do that is not orthogonal to the eigenvector.
    start = jax.random.normal(jax.random.key(0), (inputs.shape[1], p.shape[1]))
    # Outside the loop: its result is each shard's own under shard_map, the start is not.
    v = unit(product(unit(start)))
    v = jax.lax.fori_loop(0, products - 2, lambda _, v: unit(product(v)), v)
    return jnp.vdot(v, product(v))


def group_norms(tree: dict[str, dict]) -> dict[str, Scalar]:
    """Norm of the leaves of each of `GROUPS`, for parameters, gradients or updates.

    "stem"; "branches" of the residual blocks; "linear", the 1x1 convolution that ends each
    and what scales its result; "classifier", the layer `Logits`; "other": reductions, last
    convolution, blocks without residuals, aux head. What a network lacks is left out.
    """
    groups: dict[str, list] = {group: [] for group in GROUPS}
    for module, parameters in tree.items():
        for name, leaves in parameters.items():
            groups[_group(module, name, "Conv2d_1x1" in parameters)].append(leaves)
    return {group: optax.tree.norm(all_) for group, all_ in groups.items() if all_}


def update_ratios(before: dict[str, dict], after: dict[str, dict]) -> dict[str, Scalar]:
    """Norm of what an update changed in each group's weights, by that of the weights."""
    changes = group_norms(jax.tree.map(jnp.subtract, after, before))
    weights = group_norms(before)
    return {group: changes[group] / weights[group] for group in changes}


def function_change(before: Logits, after: Logits) -> Scalar:
    """RMS difference of the logits of the same images before and after an update.

    The step in the space of functions, which Fixup bounds (arXiv 1901.09321, section 3).
    """
    return rms(jnp.subtract(after, before))


def ema_gap(ema: Any, raw: Any) -> Scalar:
    """Distance of the averaged weights from the raw ones, by the norm of the raw ones."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, ema, raw)) / optax.tree.norm(raw)


def count_spikes(losses: Sequence[float], window: int = 20) -> int:
    """Number of excursions of a loss curve, one value a step, on the host.

    An excursion is a stretch of steps whose loss is no number or above twice the median of
    the `window` steps before (of those that are finite, and there).
    """
    values = np.asarray(losses, float)
    above = np.zeros(len(values) + 1, bool)  # nothing before the first step
    for step, value in enumerate(values):
        before = values[max(step - window, 0) : step]
        finite = before[np.isfinite(before)]
        median = np.median(finite) if len(finite) else np.inf
        above[step + 1] = not value <= 2 * median or np.isinf(value)
    return int(np.sum(above[1:] & ~above[:-1]))


def signals(
    network: Network,
    variables: dict[str, dict],
    images: Float[Array, "n h w c"],
    residual_scale: ResidualScale = None,
) -> dict[str, Array]:
    """The signals of a network on `images`, which it sees as a batch in training.

    Batch statistics are those of `images`; there is no dropout. `BLOCK_SIGNALS` have one
    value for each module of the spec's stages, from input to output, reductions included;
    those of residuals are NaN where there is none. Numbers: pool_dead, pool_tiny and
    pool_dead_images of what the average pool sees, feature_norm2 and, with a classifier,
    logit_rms and curvature; and logits `[n, k]`.
    """
    alone = network.clone(
        dropout_rate=0.0, aux_head=False, bn_axis_name=None, bn_axis_index_groups=None
    )
    (logits, endpoints), state = alone.apply(
        variables,
        images,
        residual_scale,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "Stem",
    )
    inner, pool = state["intermediates"], endpoints["PrePool"]
    ((stream, _),) = inner["Stem"]["__call__"]
    blocks = []
    for name in (name for stage in network.spec.stages for name in stage.names):
        (residual,) = inner.get(name, {}).get("residual", (None,))
        blocks.append(_of_block(stream, endpoints[name], residual))
        stream = endpoints[name]
    found = {
        **{key: jnp.array([block[key] for block in blocks]) for key in BLOCK_SIGNALS},
        "pool_dead": dead(pool),
        "pool_tiny": tiny(pool),
        "pool_dead_images": dead_images(pool),
        "feature_norm2": feature_norm2(endpoints["global_pool"]),
    }
    if not network.num_classes:
        return found
    features = endpoints.get("Bottleneck", endpoints["PreLogitsFlatten"])
    found["curvature"] = classifier_curvature(features, logits)
    return found | {"logit_rms": rms(logits), "logits": logits}


def _of_block(before: Array, stream: Map, residual: Map | None) -> dict[str, Scalar]:
    """`BLOCK_SIGNALS` of a module that makes `stream` of `before`."""
    none = jnp.float32(jnp.nan)
    return {
        "dead": dead(stream),
        "tiny": tiny(stream),
        "dead_images": dead_images(stream),
        "stream_rms": rms(stream),
        "stream_mean": mean(stream),
        "residual_ratio": none if residual is None else residual_ratio(residual, before),
        "residual_mean": none if residual is None else mean(residual),
    }


def _largest(x: Map) -> Float[Array, " c"]:
    """Largest |value| of each channel."""
    return jnp.max(jnp.abs(x), axis=(0, 1, 2))


def _group(module: str, name: str, is_residual: bool) -> str:
    if module == "Stem":
        return "stem"
    if module == "Logits":
        return "classifier"
    if not is_residual:
        return "other"
    return "branches" if name.startswith("Branch_") else "linear"
