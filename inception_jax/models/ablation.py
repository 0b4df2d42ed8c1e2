# SPDX-License-Identifier: Apache-2.0
"""Changes to a residual network for ablations, by name."""

from dataclasses import asdict, replace
from typing import Any, Literal

from inception_jax.config import AblationConfig
from inception_jax.models.residual import check_choice
from inception_jax.models.spec import INITIALIZERS, NetworkSpec
from inception_jax.models.zoo import get_spec


def ablated(
    spec: NetworkSpec,
    *,
    kernel_init: str | None = None,
    residual_init: str | None = None,
    learned_scale: Literal["none", "scalar", "channel"] = "none",
    learned_scale_init: float = 1.0,
    residual_norm: bool = False,
    activation: Literal["relu", "leaky_relu", "pre"] = "relu",
    pool_norm: Literal["none", "before_relu", "after_relu"] = "none",
) -> NetworkSpec:
    """Return `spec` with other initialisers or residual blocks, or batch norm for the pool.

    `kernel_init` applies to all convolutions with batch norm, `residual_init` to the linear
    1x1 convolutions; both are names of `INITIALIZERS`, and None leaves them as published.
    The other arguments are fields of `ResidualOptions` and `NetworkSpec`.

    Raises ValueError for a network without residual blocks and for an unknown name.
    """
    if not spec.default_scales:
        raise ValueError(
            "an ablation needs a network with residual blocks, and this one has none; "
            "leave it out."
        )
    initializers = {"kernel_init": kernel_init, "residual_init": residual_init}
    changed: dict[str, Any] = {}
    for name, init in initializers.items():
        if init is not None:
            check_choice(name, init, INITIALIZERS)
            changed[name] = INITIALIZERS[init]
    return replace(
        spec,
        **changed,
        residual=replace(
            spec.residual,
            learned_scale=learned_scale,
            learned_scale_init=learned_scale_init,
            norm=residual_norm,
            activation=activation,
        ),
        pool_norm=pool_norm,
    )


def spec_for(network: str, ablation: AblationConfig) -> NetworkSpec:
    """Return the spec of `network` with the changes of `ablation`.

    Raises ValueError as `get_spec` and `ablated` do.
    """
    spec = get_spec(network)
    return spec if ablation == AblationConfig() else ablated(spec, **asdict(ablation))
