# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax features`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from inception_jax.cli import arguments as shared
from inception_jax.cli.progress import ImageProgress
from inception_jax.data.image_paths import expand_image_paths
from inception_jax.inference.batches import BatchOutputs
from inception_jax.inference.features import (
    check_disk_space,
    extract_features,
    find_endpoint,
    write_features,
)
from inception_jax.storage.files import check_output_path
from inception_jax.text import format_bytes

# Files larger than this are announced before they are written.
LARGE = 2 * 2**30


def write_image_features(
    images: shared.Images = (),
    /,
    *,
    endpoint: Annotated[str, tyro.conf.arg(metavar="NAME")],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    model: shared.ModelName = None,
    weights: shared.Weights = "ema",
    step: shared.Step = None,
    pool: bool = False,
    batch_size: shared.BatchSize = 32,
) -> None:
    """Write features of images, the values of a network's endpoint, to a file.

    Example: inception-jax features photos --endpoint PreLogitsFlatten --out features.npz

    The rows of the file are in the order of the images. Unreadable images are reported on
    standard error and left out. Exit status: 0 if all images were read, 1 if some were not,
    2 for invalid arguments, 74 if the model is damaged or a file cannot be written.

    Args:
        endpoint: Name of the endpoint in TF-slim. PreLogitsFlatten is the input of the
            classifier; facenet's embeddings are Embeddings. An unknown name prints the list
            of endpoints.
        out: Write to this new .npz file, with arrays "features" and "names", or .parquet
            file, with columns "name" and "features".
        pool: Average the endpoint over height and width.
    """
    check_output_path(out, ".npz", ".parquet")
    paths = expand_image_paths(images)
    _, loaded, variables = shared.load_model(model, weights, step)
    chosen = find_endpoint(loaded, endpoint, pool=pool)
    check_disk_space(out, chosen, len(paths))
    size = len(paths) * chosen.num_bytes
    if size > LARGE:
        print(f"Writing {format_bytes(size)} for {len(paths):,} images.", file=sys.stderr)
    progress = ImageProgress(len(paths))
    batches = extract_features(loaded, variables, paths, chosen, batch_size=batch_size)

    def batches_with_progress() -> Iterator[BatchOutputs]:
        for batch in batches:
            progress.add_batch(len(batch.paths), batch.errors)
            yield batch

    count = write_features(out, loaded.card, chosen, batches_with_progress())
    shape = ", ".join(map(str, (count, *chosen.shape)))
    print(f"Wrote {chosen.name} [{shape}] to {out}.")
    progress.finish()
