# SPDX-License-Identifier: Apache-2.0
"""Checks of the inputs of a network: images and residual scales."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from inception_jax.models.spec import NetworkSpec

# These types omit shapes, which `check_images` and `block_scales` check.
ImageArray = jax.Array | np.ndarray
ResidualScale = ArrayLike | tuple[float, ...] | None


def check_images(images: ImageArray, spec: NetworkSpec) -> None:
    """Raise ValueError or TypeError for images that a network of `spec` cannot take."""
    channels, smallest = spec.image_shape[2], spec.min_size
    if images.ndim != 4:
        raise ValueError(
            f"images must be [n, height, width, channels], got shape {images.shape}."
        )
    if images.shape[3] != channels:
        raise ValueError(
            f"images must have {channels} channel(s) in the last axis, got shape "
            f"{images.shape}; channels-first arrays need a transpose."
        )
    if min(images.shape[1:3]) < smallest:
        raise ValueError(
            f"images must be at least {smallest}x{smallest} pixels, got "
            f"{images.shape[1]}x{images.shape[2]}; resize them first."
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"images must be floating-point and scaled to [-1, 1], got {images.dtype}; for "
            "8-bit images use x / 127.5 - 1."
        )


def block_scales(
    spec: NetworkSpec, residual_scale: ResidualScale
) -> Float[Array, " blocks"]:
    """Return one scale for each residual block; see `Network` for the valid inputs.

    Raises ValueError or TypeError for any other input.
    """
    counts, defaults = spec.blocks_per_grid, spec.default_scales
    if residual_scale is None:
        return jnp.asarray(defaults, jnp.float32)
    if not counts:
        raise ValueError(
            f"residual_scale={residual_scale} was given, but this network has no "
            "residual blocks; leave it out."
        )
    if not isinstance(residual_scale, jax.core.Tracer):
        values = np.asarray(residual_scale)
        if not np.all((values >= 0) & (values <= 1)):
            raise ValueError(
                f"residual_scale must lie in [0, 1], got {residual_scale}; the paper "
                "uses 0.1 to 0.3, and 1 is no scaling."
            )
    scale = jnp.asarray(residual_scale)
    if not jnp.issubdtype(scale.dtype, jnp.floating):
        raise TypeError(
            f"residual_scale must be floating-point, got {scale.dtype}; write 1.0 for 1."
        )
    if scale.shape == ():
        return jnp.broadcast_to(scale, (len(defaults),))
    if scale.shape == (len(defaults),):
        return scale
    if scale.shape == (len(counts),):
        return jnp.repeat(scale, np.array(counts), total_repeat_length=len(defaults))
    raise ValueError(
        f"residual_scale must be one number, {len(counts)} (one per grid) or "
        f"{len(defaults)} (one per block), got shape {scale.shape}."
    )
