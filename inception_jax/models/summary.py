# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-accumulates and shapes of a network, counted in its trace.

The forward pass is traced without computing any array. The convolutions and matrix
multiplications of the trace are counted and attributed to their modules.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from inception_jax.models.network import Network
from inception_jax.models.spec import Stage
from inception_jax.models.stem import Endpoints


@dataclass(frozen=True)
class Row:
    """One stage of a network: a layer of the stem, or all repetitions of a block."""

    names: tuple[str, ...]  # of the endpoints
    role: str  # the stage's role or the endpoint's name, by which networks are compared
    figure: str
    shape: tuple[int, ...]  # of the output, without the batch
    params: int
    macs: int
    scale: float | None = None

    @property
    def stage(self) -> str:
        """Name of the endpoint, or of the first and the last of several."""
        first, last = self.names[0], self.names[-1]
        return first if len(self.names) == 1 else f"{first} .. {last}"

    @property
    def count(self) -> int:
        """Number of blocks of the stage."""
        return len(self.names)


@dataclass(frozen=True)
class Summary:
    """Counts of a network, stage by stage."""

    rows: tuple[Row, ...]
    bn_stats: int  # numbers in moving averages, which are not parameters

    @property
    def params(self) -> int:
        """Number of trainable parameters."""
        return sum(row.params for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image."""
        return sum(row.macs for row in self.rows)


@cache
def summarise(network: Network, image_shape: tuple[int, int, int] | None = None) -> Summary:
    """Count parameters and operations of inference on one image of `image_shape`.

    The default is the network's own image shape. Raises ValueError if the network does not
    accept such an image.
    """
    network = network.clone(aux_head=False)  # used in training only
    image_shape = image_shape or network.spec.image_shape
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    order: list[str] = []

    def forward(key: jax.Array, images: jax.Array) -> tuple[Endpoints, Any]:
        (_, endpoints), variables = network.init_with_output(key, images)
        order.extend(endpoints)  # a pytree would come back sorted
        return endpoints, variables

    trace = jax.make_jaxpr(forward, return_shape=True)
    jaxpr, (endpoints, variables) = trace(jax.random.key(0), images)
    macs: Counter[str] = Counter()
    for path, count in _multiply_accumulates(jaxpr.jaxpr, ()):
        macs[_stage_of(path)] += count
    params: Counter[str] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        params[_stage_of(names)] += leaf.size
    merged = _one_stage_per_role(network.spec.stages)
    stages = {name: stage for stage in merged for name in stage.names}
    rows = [
        _row(network, stages.get(name), name, endpoints, params, macs)
        for name in order
        if _starts_a_row(name, stages) and (name != "PrePool" or params[name])
    ]
    assert sum(row.params for row in rows) == params.total(), "a stage was left out"
    assert sum(row.macs for row in rows) == macs.total(), "a stage was left out"
    bn_stats = sum(x.size for x in jax.tree.leaves(variables.get("batch_stats", {})))
    return Summary(tuple(rows), bn_stats)


def aligned(first: Summary, second: Summary) -> list[tuple[Row | None, Row | None]]:
    """Pair the rows of two networks by role; None marks a row that one does not have."""
    roles = [[row.role for row in summary.rows] for summary in (first, second)]
    matcher = difflib.SequenceMatcher(a=roles[0], b=roles[1], autojunk=False)
    pairs: list[tuple[Row | None, Row | None]] = []
    for tag, a_start, a_end, b_start, b_end in matcher.get_opcodes():
        left, right = first.rows[a_start:a_end], second.rows[b_start:b_end]
        if tag == "equal":
            pairs += zip(left, right, strict=True)
        else:
            pairs += [(row, None) for row in left] + [(None, row) for row in right]
    return pairs


def differing(a: Row, b: Row) -> list[str]:
    """Return the names of the columns in which two rows differ."""
    names = ("blocks", "shape", "parameters", "MACs", "scale")
    values = [(r.count, r.shape, r.params, r.macs, r.scale) for r in (a, b)]
    return [n for n, x, y in zip(names, *values, strict=True) if x != y]


def _one_stage_per_role(stages: tuple[Stage, ...]) -> Iterator[Stage]:
    """Join neighbouring stages of one role: Inception-v3 has several widths on a grid."""
    for _, neighbours in groupby(stages, lambda stage: stage.role):
        first, *others = neighbours
        names = sum((stage.names for stage in others), first.names)
        yield replace(first, names=names)


def _starts_a_row(name: str, stages: dict[str, Stage]) -> bool:
    if name in ("PreAuxLogits", "PreLogitsFlatten", "Embeddings", "Predictions"):
        return False  # repeats another endpoint, or has no layer of its own
    return name not in stages or name == stages[name].names[0]


def _row(
    network: Network,
    stage: Stage | None,
    name: str,
    endpoints: dict[str, jax.ShapeDtypeStruct],
    params: Counter[str],
    macs: Counter[str],
) -> Row:
    names = stage.names if stage else (name,)
    if stage:
        role, figure, scale = stage.role, stage.figure, stage.scale
    else:
        role, figure, scale = name, network.spec.stem_figure, None
        if name in ("global_pool", "Logits"):
            figure = network.spec.figure
        elif name in ("Mixed_5b", "Conv2d_7b_1x1", "PrePool", "Bottleneck"):
            figure = "not in the paper"
    return Row(
        names,
        role,
        figure,
        endpoints[names[-1]].shape[1:],
        sum(params[n] for n in names),
        sum(macs[n] for n in names),
        scale,
    )


def _stage_of(path: list[str] | tuple[str, ...]) -> str:
    """Return the endpoint of a module path; each layer of the stem is one."""
    return path[1] if path[0] == "Stem" else path[0]


def _multiply_accumulates(
    jaxpr: Jaxpr, prefix: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield path and operations of each convolution and matrix multiplication."""
    equation: Any
    for equation in jaxpr.eqns:
        names = str(equation.source_info.name_stack).split("/")
        path = (*prefix, *(name for name in names if name not in ("", "Network")))
        output = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_dim = equation.params["dimension_numbers"].rhs_spec[0]
            yield path, output.size * math.prod(kernel) // kernel[out_dim]
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            yield path, output.size * math.prod(left[i] for i in contracted)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _multiply_accumulates(inner, path)
