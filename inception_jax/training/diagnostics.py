# SPDX-License-Identifier: Apache-2.0
"""Measurements of the instability described in section 3.3.

A NaN or infinite value makes the means and norms that include it non-finite.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from inception_jax.models.network import Network, ResidualScale

FeatureMap = Float[Array, "n h w c"]
Logits = Float[Array | np.ndarray, "n k"]
Scalar = Float[Array, ""]
GROUPS = ("stem", "branches", "linear", "other", "classifier")
BLOCK_SIGNALS = (
    *("dead", "tiny", "dead_images", "stream_rms", "stream_mean"),
    *("residual_ratio", "residual_mean"),
)


def rms(x: Float[Array, "..."]) -> Scalar:
    """Return the root mean square."""
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))


def mean(x: Float[Array, "..."]) -> Scalar:
    """Return the mean; it grows with depth in sums of ReLU outputs (arXiv 2101.08692)."""
    return jnp.mean(x.astype(jnp.float32))


def dead_channels(x: FeatureMap) -> Scalar:
    """Return the fraction of channels that are zero at every position of every image.

    Section 3.3: "the last layer before the average pooling started to produce only zeros".
    """
    return jnp.mean(_largest(x) == 0)


def tiny_channels(x: FeatureMap) -> Scalar:
    """Return the fraction of channels that are 0 or below 1e-3 of the RMS of `x`."""
    largest = _largest(x)
    return jnp.mean((largest == 0) | (largest < 1e-3 * rms(x)))


def dead_images(x: FeatureMap) -> Scalar:
    """Return the fraction of images whose whole feature map is zero."""
    return jnp.mean(jnp.all(x == 0, axis=(1, 2, 3)))


def residual_ratio(residual: FeatureMap, stream: FeatureMap) -> Scalar:
    """Return the RMS of a scaled residual divided by that of the stream before the sum.

    It limits the depth that can be trained (De and Smith, arXiv 2002.10444).
    """
    return rms(residual) / rms(stream)


def feature_norm2(features: Float[Array, "n d"]) -> Scalar:
    """Return the mean squared norm of the pooled features.

    The curvature of the loss in the classifier grows with it, and so does its update.
    """
    return jnp.mean(jnp.sum(jnp.square(features), axis=-1))


def classifier_curvature(
    features: Float[Array, "n d"], logits: Float[Array, "n k"], iterations: int = 20
) -> Scalar:
    """Return the largest eigenvalue of the Hessian with respect to kernel and bias.

    The loss is the classifier's mean cross-entropy in nats. Its Hessian does not depend on
    the labels: it maps V `[d + 1, k]` to the mean of f (V^T f)^T (diag(p) - p p^T), where f
    is [features, 1] and p the softmax of the logits. It is positive semi-definite, so power
    iteration converges to the largest eigenvalue from below. Gradient descent with momentum
    b is unstable above 2 (1 + b) / learning rate (Cohen et al., arXiv 2103.00065).
    """
    inputs = jnp.pad(features, ((0, 0), (0, 1)), constant_values=1.0)
    p = jax.nn.softmax(logits)

    def hessian_times(v: Float[Array, "d k"]) -> Float[Array, "d k"]:
        u = p * (inputs @ v)
        return inputs.T @ (u - p * jnp.sum(u, axis=-1, keepdims=True)) / len(inputs)

    def unit(v: Float[Array, "d k"]) -> Float[Array, "d k"]:
        # The Hessian is zero if all entries of p are 0 or 1.
        return v / jnp.maximum(optax.tree.norm(v), jnp.finfo(v.dtype).tiny)

    # Any fixed vector that is not orthogonal to the eigenvector works.
    start = jax.random.normal(jax.random.key(0), (inputs.shape[1], p.shape[1]))
    # The first iteration is outside the loop because, under shard_map, its result varies
    # between shards but `start` does not, and a loop cannot change that type.
    v = unit(hessian_times(unit(start)))
    v = jax.lax.fori_loop(0, iterations - 2, lambda _, v: unit(hessian_times(v)), v)
    return jnp.vdot(v, hessian_times(v))


def group_norms(tree: dict[str, dict]) -> dict[str, Scalar]:
    """Return the norm of each of `GROUPS` of parameters, gradients or updates.

    "branches" are those of residual blocks, "linear" their last 1x1 convolutions with any
    learned scale, "classifier" is the layer `Logits`, and "other" contains reductions, the
    last convolution, blocks without residuals and the auxiliary head. Groups that a network
    does not have are omitted.
    """
    groups: dict[str, list] = {group: [] for group in GROUPS}
    for module, parameters in tree.items():
        for name, leaves in parameters.items():
            groups[_group(module, name, "Conv2d_1x1" in parameters)].append(leaves)
    return {group: optax.tree.norm(trees) for group, trees in groups.items() if trees}


def update_ratios(before: dict[str, dict], after: dict[str, dict]) -> dict[str, Scalar]:
    """Return the norm of each group's change, divided by the norm of its weights before."""
    changes = group_norms(jax.tree.map(jnp.subtract, after, before))
    weights = group_norms(before)
    return {group: changes[group] / weights[group] for group in changes}


def function_change(before: Logits, after: Logits) -> Scalar:
    """Return the RMS change of the logits of the same images in an update.

    Fixup bounds how far an update moves the outputs (arXiv 1901.09321, section 3).
    """
    return rms(jnp.subtract(after, before))


def ema_gap(ema: Any, raw: Any) -> Scalar:
    """Return the norm of averaged minus raw weights, divided by that of the raw weights."""
    return optax.tree.norm(jax.tree.map(jnp.subtract, ema, raw)) / optax.tree.norm(raw)


def count_spikes(losses: Sequence[float], window: int = 20) -> int:
    """Return the number of spikes of a loss curve with one value per step.

    A spike is a sequence of consecutive steps whose losses are NaN, infinite, or more than
    twice the median of the finite losses of the `window` steps before.
    """
    values = np.asarray(losses, float)
    above = np.zeros(len(values) + 1, bool)  # a spike can start at the first step
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
    """Return signals, using the images' own batch statistics and no dropout.

    `BLOCK_SIGNALS`: vectors with one value per block or reduction, from input to output;
      `residual_ratio` and `residual_mean` are NaN for modules without a residual.
    `pool_dead`, `pool_tiny`, `pool_dead_images`: of the last feature map before the pool.
    `feature_norm2` and, with a classifier, `logits` `[n, k]`, `logit_rms` and `curvature`.
    """
    network = network.clone(
        dropout_rate=0.0, aux_head=False, bn_axis_name=None, bn_axis_index_groups=None
    )
    (logits, endpoints), state = network.apply(
        variables,
        images,
        residual_scale,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "Stem",
    )
    intermediates, pool = state["intermediates"], endpoints["PrePool"]
    ((stream, _),) = intermediates["Stem"]["__call__"]
    blocks = []
    for stage in network.spec.stages:
        for name in stage.names:
            (residual,) = intermediates.get(name, {}).get("residual", (None,))
            blocks.append(_block_signals(stream, endpoints[name], residual))
            stream = endpoints[name]
    result = {
        **{key: jnp.array([block[key] for block in blocks]) for key in BLOCK_SIGNALS},
        "pool_dead": dead_channels(pool),
        "pool_tiny": tiny_channels(pool),
        "pool_dead_images": dead_images(pool),
        "feature_norm2": feature_norm2(endpoints["global_pool"]),
    }
    if not network.num_classes:
        return result
    features = endpoints.get("Bottleneck", endpoints["PreLogitsFlatten"])
    result["curvature"] = classifier_curvature(features, logits)
    return result | {"logit_rms": rms(logits), "logits": logits}


def _block_signals(
    stream: Array, output: FeatureMap, residual: FeatureMap | None
) -> dict[str, Scalar]:
    """Return `BLOCK_SIGNALS` of a module with input `stream` and output `output`."""
    missing = jnp.float32(jnp.nan)
    return {
        "dead": dead_channels(output),
        "tiny": tiny_channels(output),
        "dead_images": dead_images(output),
        "stream_rms": rms(output),
        "stream_mean": mean(output),
        "residual_ratio": missing if residual is None else residual_ratio(residual, stream),
        "residual_mean": missing if residual is None else mean(residual),
    }


def _largest(x: FeatureMap) -> Float[Array, " c"]:
    """Return the largest |value| of each channel."""
    return jnp.max(jnp.abs(x), axis=(0, 1, 2))


def _group(module: str, name: str, is_residual: bool) -> str:
    if module == "Stem":
        return "stem"
    if module == "Logits":
        return "classifier"
    if not is_residual:
        return "other"
    return "branches" if name.startswith("Branch_") else "linear"
