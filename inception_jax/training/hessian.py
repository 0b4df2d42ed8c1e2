# SPDX-License-Identifier: Apache-2.0
"""The largest eigenvalue of the Hessian with respect to all parameters."""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from inception_jax.config import PreprocessSpec
from inception_jax.data.optional import require
from inception_jax.models.inputs import ResidualScale, block_scales
from inception_jax.models.network import Network
from inception_jax.training.losses import cross_entropy
from inception_jax.training.step import Batch, network_input

# Number of vectors that Lanczos keeps. SciPy's default is 20. The largest eigenvalue of a
# network is far from the others, so 10 suffice and take half the memory and time.
VECTORS = 10

HessianProduct = Callable[[dict, Batch, Array, Array], Array]


def largest_hessian_eigenvalue(
    network: Network,
    variables: dict[str, dict],
    batch: Batch,
    residual_scale: ResidualScale = None,
    *,
    preprocess: PreprocessSpec,
    tolerance: float = 1e-3,
    iterations: int = 100,
) -> float:
    """Return the largest eigenvalue of the Hessian of the loss of one batch.

    The loss is the mean cross-entropy in nats, in float32, with the batch's own statistics
    and without dropout, weight decay or the auxiliary head. `batch` is that of a training
    step: `image` `[n, h, w, c]` in uint8 and `label` `[n]`.

    SciPy's Lanczos method computes the eigenvalue, because power iteration would return the
    eigenvalue of the largest magnitude, which can be negative. The method stops at a
    relative error of `tolerance` and restarts at most `iterations` times. The host keeps 10
    vectors of the size of the parameters. A network is compiled once for all variables and
    residual scales.

    The result is NaN if the Hessian is not finite. Raises ImportError if SciPy is missing,
    ValueError as the network does, and RuntimeError if the method does not converge.
    """
    linalg = require("scipy.sparse.linalg", "study")
    scales = block_scales(network.spec, residual_scale)
    product = hessian_product(_measured(network), preprocess)
    size = sum(x.size for x in jax.tree.leaves(variables["params"]))

    def times(vector: np.ndarray) -> np.ndarray:
        flat = jnp.asarray(vector, jnp.float32).ravel()
        return np.asarray(product(variables, batch, scales, flat))

    start = np.random.default_rng(0).standard_normal(size, np.float32)
    first = times(start)
    if not np.isfinite(first).all():
        return float("nan")
    if not first.any():
        return 0.0  # the Hessian vanishes, and Lanczos cannot start
    try:
        (largest,) = linalg.eigsh(
            linalg.LinearOperator((size, size), times, dtype=np.float32),
            k=1,
            which="LA",  # the largest, not the largest in magnitude
            v0=start,
            ncv=VECTORS,
            maxiter=iterations,
            tol=tolerance,
            return_eigenvectors=False,
        )
    except linalg.ArpackNoConvergence as e:
        raise RuntimeError(
            f"the largest eigenvalue has not converged to {tolerance} after {iterations} "
            "iterations; raise one of the two."
        ) from e
    return float(largest)


@lru_cache(maxsize=4)  # compile once for all runs of a process
def hessian_product(network: Network, preprocess: PreprocessSpec) -> HessianProduct:
    """Return a jitted function of variables, batch, scales of the blocks and a vector.

    It multiplies the Hessian by the vector, whose order is that of `ravel_pytree`.
    """

    def product(
        variables: dict[str, dict],
        batch: Batch,
        scales: Float[Array, " blocks"],
        vector: Float[Array, " parameters"],
    ) -> Float[Array, " parameters"]:
        images = network_input(batch, preprocess)
        flat, unravel = ravel_pytree(variables["params"])

        def loss(flat: Float[Array, " parameters"]) -> Float[Array, ""]:
            (logits, _), _ = network.apply(
                variables | {"params": unravel(flat)},
                images,
                scales if scales.size else None,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.mean(cross_entropy(logits, batch["label"]))

        return jax.jvp(jax.grad(loss), (flat,), (vector,))[1]

    return jax.jit(product)


def _measured(network: Network) -> Network:
    """Return the network in float32, without dropout, auxiliary head and device axes."""
    return network.clone(
        dropout_rate=0.0,
        aux_head=False,
        bn_axis_name=None,
        bn_axis_index_groups=None,
        dtype=jnp.float32,
        fast=False,  # the fast layers do not support jax.jvp
    )
