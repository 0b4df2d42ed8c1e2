# SPDX-License-Identifier: Apache-2.0
"""The residual block (section 3.2), whose residual is scaled before the sum (Fig. 20)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from inception_jax.models.layers import PLAIN, Branches, LayerSet

Scale = float | Float[Array, ""]


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError if the option `name` has a value that is not among `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


@dataclass(frozen=True)
class ResidualOptions:
    """Changes to a residual block, for ablations; the defaults are the paper's block.

    Raises ValueError for an unknown choice.
    """

    # A trained factor `learned_scale` on the residual, on top of the residual scale: one
    # number (SkipInit, 2002.10444; ReZero, 2003.04887) or one per channel (LayerScale,
    # 2103.17239).
    learned_scale: Literal["none", "scalar", "channel"] = "none"
    learned_scale_init: float = 1.0
    # Batch normalisation after the linear 1x1 convolution, without a ReLU.
    norm: bool = False
    # Activation of the sum. "pre" is pre-activation (1603.05027): the branches read relu(x)
    # and only the last sum of a grid has an activation, so that reductions and the pool
    # still read the output of a ReLU.
    activation: Literal["relu", "leaky_relu", "pre"] = "relu"
    # False leaves x out of the sum: an Inception network with the same parameters and cost.
    shortcut: bool = True

    def __post_init__(self) -> None:
        choices = ("none", "scalar", "channel")
        check_choice("learned_scale", self.learned_scale, choices)
        check_choice("activation", self.activation, ("relu", "leaky_relu", "pre"))


PAPER = ResidualOptions()


class ResidualBlock(nn.Module):
    """`relu(x + scale * linear(branches(x)))`: Figs 10, 11, 13, 16, 17, 19 and 20.

    `linear` is a 1x1 convolution back to the width of x, with a bias and without batch
    normalisation, as in slim and facenet; the paper calls it a "filter-expansion layer ...
    without activation". There is no batch normalisation on top of the sum (section 3.2).

    The scaled residual is sown as `residual` into the collection "intermediates", which
    costs nothing unless that collection is mutable. In a folded network (`layers.norm` is
    None) everything between `linear` and the sum is merged into the weights of `linear`.
    """

    branches: Branches
    relu: bool = True  # False: the sum has no activation, whatever the options say
    is_last: bool = False  # whether a reduction or the head reads its output
    options: ResidualOptions = PAPER
    layers: LayerSet = PLAIN

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], scale: Scale = 1.0, *, train: bool = False
    ) -> Float[Array, "n h w c"]:
        layers, options = self.layers, self.options

        def branches(x: Array) -> Array:
            return layers.concat(self, x, self.branches, conv=layers.conv, train=train)

        def scaled_linear(y: Array) -> Array:
            linear = layers.scaled_conv(x.shape[-1], name="Conv2d_1x1")
            if layers.norm is None:
                return linear(y)
            factor = self._factor(scale, x.shape[-1])
            if not options.norm:
                return linear(y, factor)  # ScaledConv1x1 multiplies by the factor
            norm = layers.norm(use_running_average=not train, dtype=x.dtype, name="bn")
            y = norm(linear(y))
            return factor.reshape(1, 1, 1, -1).astype(y.dtype) * y

        residual = scaled_linear(branches(nn.relu(x) if options.activation == "pre" else x))
        self.sow("intermediates", "residual", residual)
        shortcut = x if options.shortcut else jnp.zeros_like(x)
        is_active = self.relu and (self.is_last or options.activation != "pre")
        activation = activation_of(options, layers) if is_active else None
        return layers.residual_sum(shortcut, residual, activation)

    def _factor(self, scale: Scale, channels: int) -> Float[Array, "..."]:
        """Return the factor on the residual: one number or one per channel."""
        kind = self.options.learned_scale
        if kind != "none":
            init = nn.initializers.constant(self.options.learned_scale_init)
            shape = (channels,) if kind == "channel" else ()
            scale = scale * self.param("learned_scale", init, shape)
        return jnp.asarray(scale, jnp.float32)


def activation_of(options: ResidualOptions, layers: LayerSet) -> Callable[[Array], Array]:
    """Return the activation of the residual sums."""
    return nn.leaky_relu if options.activation == "leaky_relu" else layers.relu
