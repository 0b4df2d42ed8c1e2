# SPDX-License-Identifier: Apache-2.0
"""Parameters, multiply-accumulates and shapes of a network, read off its trace.

Nothing here is written down: the forward pass is traced (no array is computed), the
convolutions and matrix products of the trace are counted, and each is credited to the
module it came from.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

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
    role: str  # what it is compared by: the role, or the endpoint's name
    figure: str
    shape: tuple[int, ...]  # of the output, without the batch
    params: int
    macs: int
    scale: float | None = None

    @property
    def stage(self) -> str:
        """The endpoint, or the first and the last of several."""
        first, last = self.names[0], self.names[-1]
        return first if len(self.names) == 1 else f"{first} .. {last}"

    @property
    def count(self) -> int:
        """Blocks of the stage."""
        return len(self.names)


@dataclass(frozen=True)
class Summary:
    """A network in figures; `params` and `macs` are the sums over `rows`."""

    rows: tuple[Row, ...]
    bn_stats: int  # moving means and variances, which are not parameters

    @property
    def params(self) -> int:
        """Trainable parameters."""
        return sum(row.params for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers, for one image."""
        return sum(row.macs for row in self.rows)


@cache
def summarise(network: Network, image_shape: tuple[int, int, int] | None = None) -> Summary:
    """Figures of `network` for one image of `image_shape` (default: its own), inference.

    Raises ValueError where the network does not take such an image.
    """
    network = network.clone(aux_head=False)  # part of training alone
    image_shape = image_shape or network.spec.image_shape
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    order: list[str] = []

    def forward(key: jax.Array, images: jax.Array) -> tuple[Endpoints, dict]:
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
        params[_stage_of([key.key for key in path])] += leaf.size
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
    """Rows of two networks side by side, by their roles; None where one has no such row."""
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
    """What two rows do not have in common."""
    names = ("blocks", "shape", "parameters", "MACs", "scale")
    values = [(r.count, r.shape, r.params, r.macs, r.scale) for r in (a, b)]
    return [n for n, x, y in zip(names, *values, strict=True) if x != y]


def _one_stage_per_role(stages: tuple[Stage, ...]) -> Iterator[Stage]:
    """Neighbours of one role joined: Inception-v3 has several widths on one grid."""
    for _, neighbours in groupby(stages, lambda stage: stage.role):
        first, *others = neighbours
        names = sum((stage.names for stage in others), first.names)
        yield replace(first, names=names)


def _starts_a_row(name: str, stages: dict[str, Stage]) -> bool:
    if name in ("PreAuxLogits", "PreLogitsFlatten", "Embeddings", "Predictions"):
        return False  # another endpoint's values, or without a layer of their own
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
    """The endpoint a module path belongs to: the stem's layers are endpoints each."""
    return path[1] if path[0] == "Stem" else path[0]


def _multiply_accumulates(
    jaxpr: Jaxpr, prefix: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """(module path, multiply-accumulates) of each convolution and matrix product."""
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
