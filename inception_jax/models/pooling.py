# SPDX-License-Identifier: Apache-2.0
"""The two pools of the figures. Max pools have a derivative of their own, but on a TPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

# A place in a window of 3x3, by row and column. 4 a row, so that the fourth of a row, which
# is none, is not the first of the next.
_PLACES = [(row, column) for row in range(3) for column in range(3)]
_ROW = 4


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """3x3 max pool of stride 2, unpadded: the pool of every stem and reduction.

    Of equal values the first of a window gets the gradient, as in `flax.linen.max_pool`.
    XLA's gradient scatters, which takes a CPU 10 to 40 times as long as gathering; that
    takes a TPU 27 times as long.
    """
    return jax.lax.platform_dependent(x, tpu=xla_max_pool, default=gathering_max_pool)


def avg_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
    """3x3 average pool of stride 1; the padding is left out of the mean, as in TF."""
    pooled = nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)
    # Flax divides by a float32 map of counts, which makes float32 of bfloat16.
    return pooled.astype(x.dtype)


def xla_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """`max_pool` with the gradient that JAX derives."""
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")


@jax.custom_vjp
def gathering_max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """`max_pool` as the largest of nine slices, with a gradient that is gathered."""
    return _forward(x)[0]


def _forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    """The pool, and for its gradient the place of the largest in each window."""
    n, h, w, c = x.shape
    size = 2 * ((h - 3) // 2), 2 * ((w - 3) // 2)  # from the first window to the last
    best = place = None
    for row, column in _PLACES:
        end = (n, row + size[0] + 1, column + size[1] + 1, c)
        here = jax.lax.slice(x, (0, row, column, 0), end, (1, 2, 2, 1))
        if best is None:
            best, place = here, jnp.zeros(here.shape, jnp.int8)
        else:
            place = jnp.where(here > best, jnp.int8(_ROW * row + column), place)
            best = jnp.maximum(best, here)
    return best, (place, x[..., :0])  # an array of no size, for the shape


def _backward(
    known: tuple[Int8[Array, "n h2 w2 c"], Float[Array, "n h w 0"]],
    dy: Float[Array, "n h2 w2 c"],
) -> tuple[Float[Array, "n h w c"]]:
    """Every position gathers from the windows that it is in, two in each direction at most.

    Row 2i+a is row a of window i and row a+2 of the window before it; columns likewise.
    """
    place, (n, h, w, _) = known[0], known[1].shape
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    place, dy = jnp.pad(place, around), jnp.pad(dy, around)
    rows, columns = dy.shape[1] - 1, dy.shape[2] - 1
    a = jnp.arange(2, dtype=jnp.int8).reshape(1, 1, 2, 1, 1, 1)
    b = jnp.arange(2, dtype=jnp.int8).reshape(1, 1, 1, 1, 2, 1)
    dx = 0
    for before in (0, 1):
        for left in (0, 1):
            i, j = slice(1 - before, rows + 1 - before), slice(1 - left, columns + 1 - left)
            is_here = place[:, i, None, j, None] == _ROW * (a + 2 * before) + b + 2 * left
            dx += jnp.where(is_here, dy[:, i, None, j, None].astype(jnp.float32), 0)
    dx = dx.astype(dy.dtype).reshape(n, 2 * rows, 2 * columns, -1)[:, :h, :w]
    unread = ((0, 0), (0, h - dx.shape[1]), (0, w - dx.shape[2]), (0, 0))
    return (jnp.pad(dx, unread),)


gathering_max_pool.defvjp(_forward, _backward)
