# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax networks`."""

from typing import Annotated

import tyro

from inception_jax.cli.arguments import ImageSize
from inception_jax.models.network import create
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.summary import Row, Summary, aligned, differing, summarise
from inception_jax.models.zoo import SPECS, list_networks
from inception_jax.text import table


def show_networks(
    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="[NAME | compare A B]",
            help="Name of a network, or compare and two names.",
            help_behavior_hint="(default: all networks)",
        ),
    ] = (),
    /,
    image_size: ImageSize = None,
) -> None:
    """Show all networks in a table, the stages of one network, or how two of them differ.

    Example: inception-jax networks inception_v4

    The stages are shown with output shape, receptive field, parameters,
    multiply-accumulates (MACs) and the figure of the paper.
    """
    match names:
        case ():
            print(_table_of_networks(image_size))
        case ("compare", first, second):
            print(_table_of_differences(first, second, image_size))
        case ("compare", *others):
            raise ValueError(
                f"compare takes two networks, got {len(others)}: "
                "inception-jax networks compare A B."
            )
        case (name,):
            print(_table_of_stages(name, image_size))
        case (first, second, *_):
            raise ValueError(
                f"networks takes one name, got {len(names)}; to compare two: "
                f"inception-jax networks compare {first} {second}."
            )


def _summarise(name: str, image_size: int | None) -> Summary:
    network = create(name)
    if image_size is None:
        return summarise(network)
    channels = network.spec.image_shape[2]
    try:
        return summarise(network, (image_size, image_size, channels))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _table_of_networks(image_size: int | None) -> str:
    header = (
        *("network", "parameters", "MACs", "input", "blocks A/B/C", "widths"),
        "figure",
    )
    lines = []
    for name in list_networks():
        spec, summary = SPECS[name], _summarise(name, image_size)
        height, width, channels = spec.image_shape
        shape = (image_size or height, image_size or width, channels)
        figures = f"{summary.params:,}", f"{summary.macs:,}", _by_x(shape)
        lines.append((name, *figures, *_blocks_and_widths(summary), spec.figure))
    notes = (
        "parameters: including batch-norm scale and bias. MACs: multiply-accumulates of "
        "convolutions and\nlinear layers, for one image. widths: output channels of blocks "
        "A, B and C, which work at 35x35,\n17x17 and 8x8 for 299-pixel images.\n"
        "To compare the two versions of v2, run\n"
        "  inception-jax networks compare inception_resnet_v2 inception_resnet_v2_paper"
    )
    return f"{table(header, lines, right=(1, 2))}\n\n{notes}"


def _blocks_and_widths(summary: Summary) -> tuple[str, str]:
    """Return the numbers of blocks A, B and C, as in "4/7/3", and their widths."""
    counts = {"A": 0, "B": 0, "C": 0}
    widths: list[int] = []
    for row in summary.rows:
        if row.role in ("A", "B", "C", "C, last"):
            counts[row.role[0]] += row.count
            if row.shape[-1] not in widths:
                widths.append(row.shape[-1])
    return "/".join(map(str, counts.values())), "-".join(map(str, widths))


def _table_of_stages(name: str, image_size: int | None) -> str:
    summary, spec = _summarise(name, image_size), SPECS[name]
    fields = receptive_fields(spec)
    header = (
        *("stage", "blocks", "output", "receptive field", "parameters", "MACs"),
        *("scale", "figure"),
    )
    lines = []
    for row in summary.rows:
        # Stages after the average pool have no receptive field: they see the whole image.
        field = fields.get(row.names[-1])
        figures = _by_x(field.size) if field else "all", f"{row.params:,}", f"{row.macs:,}"
        shape, scale = _by_x(row.shape), _scale(row)
        lines.append((row.stage, str(row.count), shape, *figures, scale, row.figure))
    lines.append(("total", "", "", "", f"{summary.params:,}", f"{summary.macs:,}", "", ""))
    title = f"{name}: {spec.figure}. Source: {spec.source}."
    note = "receptive field: pixels, padding included, that one output position depends on"
    return f"{title}\n\n{table(header, lines, right=(1, 3, 4, 5))}\n\n{note}"


def _table_of_differences(first: str, second: str, image_size: int | None) -> str:
    """Return both networks stage by stage, with stages of the same role in one line."""
    summaries = [_summarise(name, image_size) for name in (first, second)]
    lines = []
    for a, b in aligned(*summaries):
        if a and b:
            differences = ", ".join(differing(a, b))
        else:
            differences = f"only in the {'first' if a else 'second'}"
        mark, role = "*" if differences else "", a.role if a else b.role if b else ""
        lines.append((mark, role, _one_cell(a), _one_cell(b), differences or "-"))
    totals = [f"{s.params:,} params, {s.macs:,} MACs" for s in summaries]
    lines.append(("", "total", totals[0], totals[1], ""))
    return table(("", "stage", first, second, "differs in"), lines)


def _one_cell(row: Row | None) -> str:
    if row is None:
        return "-"
    times = f"{row.count} x " if row.count > 1 else ""
    scale = f", scale {_scale(row)}" if _scale(row) else ""
    return f"{times}{_by_x(row.shape)}, {row.params:,}{scale}"


def _scale(row: Row) -> str:
    return "" if row.scale is None else f"{row.scale:g}"


def _by_x(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
