# SPDX-License-Identifier: Apache-2.0
"""Networks small enough to run in a moment: every kind of residual block, or just one."""

from dataclasses import replace
from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from inception_jax import NetworkSpec, small_image_spec
from inception_jax.models.inception_a import InceptionResNetA, residual_a_branches
from inception_jax.models.inception_b import InceptionResNetB, residual_b_branches
from inception_jax.models.inception_c import InceptionResNetC, residual_c_branches
from inception_jax.models.layers import Box
from inception_jax.models.reduction_a import ReductionA
from inception_jax.models.reduction_b import InceptionResNetReductionB
from inception_jax.models.spec import Stage

# Blocks on each of the three grids, and all of them in order.
GRIDS = (1, 3, 2)
BLOCKS = ("block35_1", "block17_1", "block17_2", "block17_3", "block8_1", "block8_2")


@cache
def three_grids(size: int = 32, **changes: object) -> NetworkSpec:
    """Return 1, 3 and 2 blocks of four filters on three grids, for square grey images."""
    a = partial(InceptionResNetA, branches=residual_a_branches(4, (4, 4), (4, 4, 4)))
    b = partial(InceptionResNetB, branches=residual_b_branches(4, (4, 4, 4)))
    c = partial(InceptionResNetC, branches=residual_c_branches(4, (4, 4, 4)))
    strided = ((Box("1a", 4, (3, 3), 2, "VALID"),),)
    stages = (
        Stage("A", a, BLOCKS[:1], "Fig. 16", 0.17),
        Stage("Reduction-A", partial(ReductionA, 4, 4, 4, 4), ("Mixed_6a",), "Fig. 7"),
        Stage("B", b, BLOCKS[1:4], "Fig. 17", 0.1),
        Stage(
            "Reduction-B",
            partial(InceptionResNetReductionB, branches=strided),
            ("Mixed_7a",),
            "Fig. 18",
        ),
        Stage("C", c, BLOCKS[4:5], "Fig. 19", 0.2),
        Stage("C, last", partial(c, relu=False), BLOCKS[5:], "Fig. 19", 1.0),
    )
    spec = small_image_spec(width=8, image_shape=(size, size, 1))
    return replace(spec, stages=stages, **changes)


@cache
def one_block(**changes: object) -> NetworkSpec:
    """Return the small stem and one block of one branch, for 8x8x1 images."""
    block = partial(InceptionResNetC, branches=((Box("", 4),),))
    stages = (Stage("C", block, ("block8_1",), "Fig. 19", 0.1),)
    return replace(small_image_spec(width=8), **{"stages": stages, **changes})


def random_variables(module: nn.Module, *inputs: jax.Array) -> dict:
    """Return variables with random kernels of He's variance, otherwise as `init` does.

    `jit(init)` would take seconds to compile, and these tests need no initialiser.
    """
    rng = np.random.default_rng(0)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key == "kernel":
            stddev = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return jnp.asarray(rng.normal(0, stddev, leaf.shape), leaf.dtype)
        return jnp.full(leaf.shape, path[-1].key in ("scale", "var"), leaf.dtype)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(fill, shapes)
