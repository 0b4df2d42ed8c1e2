# SPDX-License-Identifier: Apache-2.0
"""Extraction of features, the values of an endpoint, from many images to a file.

FILE.npz      arrays features [n, ...] in float32, names [n], endpoint and model.json
FILE.parquet  columns name and features (flat lists of equal length); endpoint, shape and
              model.json in the metadata
"""

import difflib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from inception_jax.data.optional import require
from inception_jax.inference.batches import BatchOutputs, apply_to_files
from inception_jax.models.stem import Endpoints
from inception_jax.storage.files import atomic_output
from inception_jax.text import format_bytes
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import CARD_FILE, Card, Variables

Batches = Iterable[BatchOutputs]
# Size of a row group of a Parquet file, which is kept in memory until it is complete.
GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of a network, used as features of an image."""

    name: str
    pool: bool  # take the mean over height and width
    shape: tuple[int, ...]  # of one image's features

    @property
    def num_bytes(self) -> int:
        return 4 * int(np.prod(self.shape))


def find_endpoint(model: Model, name: str, *, pool: bool = False) -> Endpoint:
    """Return the endpoint `name` of a model, without running the network.

    Raises ValueError, with a list, if it does not exist, or if `pool` is set and it has no
    height and width.
    """
    images = jax.ShapeDtypeStruct((1, *model.card.preprocess.image_shape), jnp.float32)
    _, endpoints = jax.eval_shape(model.apply, model.shapes, images)
    if name not in endpoints:
        close = difflib.get_close_matches(name, endpoints, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(
            f"{model.card.network} has no endpoint {name!r}; {hint}It has: "
            f"{', '.join(endpoints)}."
        )
    shape = endpoints[name].shape[1:]
    if pool and len(shape) != 3:
        raise ValueError(f"{name} has no height and width; omit --pool.")
    return Endpoint(name, pool, shape[2:] if pool else shape)


def extract_features(
    model: Model,
    variables: Variables,
    paths: Sequence[str],
    endpoint: Endpoint,
    *,
    batch_size: int = 32,
) -> Iterator[BatchOutputs]:
    """Yield the values of an endpoint, `[n, *endpoint.shape]`, batch by batch."""

    def take(_: Array, endpoints: Endpoints) -> Float[Array, "n ..."]:
        x = endpoints[endpoint.name].astype(jnp.float32)
        return jnp.mean(x, axis=(1, 2)) if endpoint.pool else x

    return apply_to_files(model, variables, paths, take, batch_size=batch_size)


def check_disk_space(out: Path, endpoint: Endpoint, images: int) -> None:
    """Raise ValueError if the features of this many images do not fit on the disk."""
    size = images * endpoint.num_bytes
    # An .npz starts with the number of rows, so they are first written to another file.
    needed = 2 * size if out.suffix == ".npz" else size
    free = shutil.disk_usage(out.parent).free
    if needed > free:
        raise ValueError(
            f"writing {format_bytes(size)} of {endpoint.name} for {images:,} images to "
            f"{out} needs {format_bytes(needed)}, but {format_bytes(free)} are free; use "
            "fewer images or --pool."
        )


def write_features(out: Path, card: Card, endpoint: Endpoint, batches: Batches) -> int:
    """Write features to `out`, .npz or .parquet, batch by batch; return the number of rows.

    Raises CheckpointError if writing fails, or ImportError without the `data` extra.
    """
    write = {".npz": _write_npz, ".parquet": _write_parquet}[out.suffix]
    about = {"endpoint": endpoint.name, CARD_FILE: card.to_json()}
    return write(out, endpoint.shape, about, batches)


def _write_npz(
    out: Path, shape: tuple[int, ...], about: dict[str, str], batches: Batches
) -> int:
    names: list[str] = []
    with atomic_output(out) as draft, tempfile.TemporaryFile(dir=out.parent) as rows:
        for batch in batches:
            names += batch.paths
            rows.write(np.ascontiguousarray(batch.values, "<f4").data)
        rows.seek(0)
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), *shape)}
        with zipfile.ZipFile(draft, "w") as archive:
            with archive.open("features.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                shutil.copyfileobj(rows, member)
            for name, value in {"names": names, **about}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(value, np.str_))
    return len(names)


def _write_parquet(
    out: Path, shape: tuple[int, ...], about: dict[str, str], batches: Batches
) -> int:
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    size = int(np.prod(shape))
    schema = pa.schema(
        {"name": pa.string(), "features": pa.list_(pa.float32(), size)},
        metadata={**about, "shape": json.dumps(shape)},
    )
    count = 0
    with atomic_output(out) as draft, parquet.ParquetWriter(draft, schema) as writer:
        for names, rows in _row_groups(batches, size):
            flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), size)
            columns = [pa.array(map(_utf8, names), pa.string()), flat]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(names)
    return count


def _row_groups(
    batches: Batches, size: int
) -> Iterator[tuple[list[str], Float32[np.ndarray, "n size"]]]:
    """Yield names and rows of `size` numbers in groups of about `GROUP_BYTES`."""
    names: list[str] = []
    rows: list[np.ndarray] = []
    for batch in batches:
        names += batch.paths
        rows.append(batch.values.reshape(-1, size))
        if 4 * size * len(names) >= GROUP_BYTES:
            yield names, np.concatenate(rows)
            names, rows = [], []
    if names:
        yield names, np.concatenate(rows)


def _utf8(name: str) -> str:
    """Return a file's name with invalid UTF-8 bytes escaped, as in \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
