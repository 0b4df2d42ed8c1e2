# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax`, also `python -m inception_jax`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from inception_jax.cli.checkpoints import checkpoints
from inception_jax.cli.data import data
from inception_jax.cli.features import features_of_images
from inception_jax.cli.plan import plan
from inception_jax.cli.predict import predict_images
from inception_jax.cli.weights import weights
from inception_jax.models.network import create, list_networks
from inception_jax.models.receptive_field import receptive_fields
from inception_jax.models.summary import Row, Summary, aligned, differing, summarise
from inception_jax.models.zoo import SPECS
from inception_jax.storage.digests import CheckpointError
from inception_jax.text import printable, table


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script.

    Exits with one sentence and 2 on bad input, 74 where a checkpoint is damaged or a disk
    does not take what is written.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "networks": networks,
                "data": data,
                "ckpt": checkpoints,
                "plan": plan,
                "predict": predict_images,
                "features": features_of_images,
                "weights": weights,
                "version": version,
            },
            prog="inception-jax",
            description=(
                "Inception-v4 and Inception-ResNet in JAX: look at the networks of the "
                "paper, at data and checkpoints; plan a run; say what is on images. "
                "Experiments are run with python -m experiments.NAME."
            ),
            args=arguments,
        )
    except CheckpointError as error:
        print(f"inception-jax: {printable(error)}", file=sys.stderr)
        raise SystemExit(74) from None
    except (ValueError, TypeError, ImportError, OSError) as error:
        print(f"inception-jax: {printable(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def version() -> None:
    """Print the versions of this package and of what it computes with."""
    from importlib.metadata import version as installed

    for package in ("inception_jax", "jax", "flax", "optax"):
        print(f"{package} {installed(package)}")


def networks(
    what: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[NAME | compare A B]"),
    ] = (),
    /,
    image_size: int | None = None,
) -> None:
    """Show the networks: all in one table, one stage by stage, or two side by side.

    `networks` lists all; `networks NAME` shows shape, receptive field, parameters,
    multiply-accumulates (MACs) and figure of every stage; `networks compare A B` shows
    where two differ.

    Args:
        what: nothing, the name of a network, or: compare A B.
        image_size: height and width of the image; default: the network's own.
    """
    if not what:
        print(_table_of_networks(image_size))
    elif what[0] == "compare":
        if len(what) != 3:
            raise ValueError(
                f"compare takes two networks, got {len(what) - 1}: "
                "inception-jax networks compare A B."
            )
        print(_comparison(what[1], what[2], image_size))
    elif len(what) == 1:
        print(_stages(what[0], image_size))
    else:
        raise ValueError(
            f"networks takes one name, got {len(what)}; to see two side by side: "
            f"inception-jax networks compare {what[0]} {what[1]}."
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
        "drawn in",
    )
    lines = []
    for name in list_networks():
        spec = SPECS[name]
        summary = _summarise(name, image_size)
        counts, widths = {}, []
        for row in summary.rows:
            kind = row.role[0] if row.role in ("A", "B", "C", "C, last") else None
            if kind:
                counts[kind] = counts.get(kind, 0) + row.count
                widths.append(str(row.shape[-1]))
        size = image_size or spec.image_shape[0]
        lines.append(
            (
                name,
                f"{summary.params:,}",
                f"{summary.macs:,}",
                f"{size}x{size}x{spec.image_shape[2]}",
                "/".join(str(counts.get(kind, 0)) for kind in "ABC"),
                "-".join(dict.fromkeys(widths)),
                spec.figure,
            )
        )
    notes = (
        "parameters: with batch-norm scale and bias; MACs: convolutions and linear "
        "layers, one image;\nwidths: channels on the 35x35, 17x17 and 8x8 grid. The two "
        "v2: inception-jax networks compare\ninception_resnet_v2 "
        "inception_resnet_v2_paper"
    )
    return f"{table(header, lines, right=(1, 2))}\n\n{notes}"


def _stages(name: str, image_size: int | None) -> str:
    summary, spec = _summarise(name, image_size), SPECS[name]
    fields = receptive_fields(spec)
    header = ("stage", "blocks", "output", "sees", "parameters", "MACs", "scale", "figure")
    lines = []
    for row in summary.rows:
        shape, *figures = _figures(row)
        field = fields.get(row.names[-1])  # none behind the average pool
        sees = "x".join(map(str, field.size)) if field else "all"
        lines.append((row.stage, str(row.count), shape, sees, *figures, row.figure))
    total = ("total", "", "", "", f"{summary.params:,}", f"{summary.macs:,}", "", "")
    title = f"{name}: {spec.figure}. Source: {spec.source}."
    note = "sees: pixels of the image, or its padding, that one position depends on"
    return f"{title}\n\n{table(header, [*lines, total], right=(1, 3, 4, 5))}\n\n{note}"


def _comparison(first: str, second: str, image_size: int | None) -> str:
    """Both stage by stage, aligned by role; a mark and a word where they differ."""
    summaries = [_summarise(name, image_size) for name in (first, second)]
    lines = [_compared(*pair) for pair in aligned(*summaries)]
    totals = [(f"{s.params:,} params", f"{s.macs:,} MACs") for s in summaries]
    lines.append(("", "total", *(", ".join(total) for total in totals), ""))
    header = ("", "stage", first, second, "differs in")
    return table(header, lines)


def _compared(a: Row | None, b: Row | None) -> tuple[str, ...]:
    row = a or b
    if a is None or b is None:
        only = "only in the first" if a else "only in the second"
        return "*", row.role, _short(a), _short(b), only
    words = ", ".join(differing(a, b))
    return "*" if words else "", row.role, _short(a), _short(b), words or "-"


def _short(row: Row | None) -> str:
    if row is None:
        return "-"
    times = f"{row.count} x " if row.count > 1 else ""
    shape, params, _, scale = _figures(row)
    return f"{times}{shape}, {params}" + (f", scale {scale}" if scale else "")


def _figures(row: Row) -> tuple[str, str, str, str]:
    scale = "" if row.scale is None else f"{row.scale:g}"
    shape = "x".join(str(size) for size in row.shape)
    return shape, f"{row.params:,}", f"{row.macs:,}", scale
