# SPDX-License-Identifier: Apache-2.0
"""The 3x3 max pool of stride 2 with a gradient that gathers instead of scattering.

XLA's own gradient scatters, which takes 10 to 40 times as long on a CPU. The
compiler for TPU v5e estimates 27 times as many cycles for gathering, so TPUs keep XLA's
gradient.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

# Positions in a 3x3 window. A row counts 4, so that the code of a column past the last is
# not the code of any position.
_POSITIONS = [(row, column) for row in range(3) for column in range(3)]
_ROW = 4


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Return the 3x3 max pool of stride 2 without padding.

    If several values in a window are equal, the first receives the gradient, as in
    `flax.linen.max_pool`.
    """
    return jax.lax.platform_dependent(
        x, tpu=_scattering_max_pool, default=_gathering_max_pool
    )


def _scattering_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")


@jax.custom_vjp
def _gathering_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    return _forward(x)[0]


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return the pool, and for the gradient the position of each window's maximum."""
    n, h, w, c = x.shape
    size = 2 * ((h - 3) // 2), 2 * ((w - 3) // 2)  # from the first window to the last

    def elements(row: int, column: int) -> Array:
        end = (n, row + size[0] + 1, column + size[1] + 1, c)
        return jax.lax.slice(x, (0, row, column, 0), end, (1, 2, 2, 1))

    largest = elements(0, 0)
    position = jnp.zeros(largest.shape, jnp.int8)
    for row, column in _POSITIONS[1:]:
        candidate = elements(row, column)
        code = jnp.int8(_ROW * row + column)
        position = jnp.where(candidate > largest, code, position)
        largest = jnp.maximum(largest, candidate)
    return largest, (position, x[..., :0])  # an empty array carries the shape


def _backward(
    residuals: tuple[Int8[Array, "n h2 w2 c"], Float[Array, "n h w 0"]],
    dy: Float[Array, "n h2 w2 c"],
) -> tuple[Float[Array, "n h w c"]]:
    """Gather each input's gradient from its windows, at most two in each direction.

    Row 2i+a is row a of window i and row a+2 of window i-1; columns likewise.
    """
    position, (n, h, w, _) = residuals[0], residuals[1].shape
    border = ((0, 0), (1, 1), (1, 1), (0, 0))
    position, dy = jnp.pad(position, border), jnp.pad(dy, border)
    rows, columns = dy.shape[1] - 1, dy.shape[2] - 1
    a = jnp.arange(2, dtype=jnp.int8).reshape(1, 1, 2, 1, 1, 1)
    b = jnp.arange(2, dtype=jnp.int8).reshape(1, 1, 1, 1, 2, 1)
    dx = jnp.float32(0)
    for above in (0, 1):
        for left in (0, 1):
            i, j = slice(1 - above, rows + 1 - above), slice(1 - left, columns + 1 - left)
            code = _ROW * (a + 2 * above) + b + 2 * left
            is_maximum = position[:, i, None, j, None] == code
            dx += jnp.where(is_maximum, dy[:, i, None, j, None].astype(jnp.float32), 0)
    dx = dx.astype(dy.dtype).reshape(n, 2 * rows, 2 * columns, -1)[:, :h, :w]
    unread = ((0, 0), (0, h - dx.shape[1]), (0, w - dx.shape[2]), (0, 0))
    return (jnp.pad(dx, unread),)


_gathering_max_pool.defvjp(_forward, _backward)
