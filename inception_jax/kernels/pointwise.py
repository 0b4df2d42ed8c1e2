# SPDX-License-Identifier: Apache-2.0
"""1x1 convolutions of stride 1 as matrix multiplications."""

import jax
from jaxtyping import Array, Float


def pointwise(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "1 1 c d"],
    *_: object,
    precision: jax.lax.PrecisionLike = None,
    **__: object,
) -> Float[Array, "n h w d"]:
    """Return the 1x1 convolution of `x` with `kernel`, computed by `dot_general`.

    It can be passed to `flax.linen.Conv` as `conv_general_dilated`, whose strides and
    padding it ignores. On a CPU, XLA's convolution takes more than twice as long for the
    gradient of a block of 1024 channels. On an H200, computing it in cuBLAS instead of
    Triton (`runtime.devices.compiler_options`) makes training 1.09 times as fast.
    """
    contract = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, kernel[0, 0], contract, precision=precision)
