# SPDX-License-Identifier: Apache-2.0
"""The residual sum and the ReLU after it, which keep only one array for the gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def relu(x: Array) -> Array:
    """ReLU whose gradient is computed from its output, so only one array is kept.

    After a sum, JAX's own derivative keeps both summands.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x: Array) -> tuple[Array, Array]:
    y = relu(x)
    return y, y


# The mask is y != 0 because XLA rewrites relu(x) > 0 to x > 0, and then keeps x as well.
relu.defvjp(_relu_forward, lambda y, dy: (jnp.where(y != 0, dy, 0),))


def residual_sum(
    x: Float[Array, "n h w c"],
    residual: Float[Array, "n h w c"],
    activation: Callable[[Array], Array] | None,
) -> Float[Array, "n h w c"]:
    """Return `activation(x + residual)`; None is the identity.

    The arrays are added as matrices. On a GPU, XLA then fuses the bias, `x` and the ReLU
    into the matrix multiplication that computes `residual`, and likewise the sum of the two
    gradients of `x`. Four-dimensional arrays would be added in a separate pass.
    """
    matrix = -1, x.shape[-1]
    total = x.reshape(matrix) + residual.reshape(matrix)
    return (activation(total) if activation else total).reshape(x.shape)
