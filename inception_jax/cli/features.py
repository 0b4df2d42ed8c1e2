# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax features`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro

from inception_jax.cli.images import Images, Watch, Weights, load_model
from inception_jax.data.image_paths import expand_image_paths
from inception_jax.inference.batches import BatchOutputs
from inception_jax.inference.features import (
    check_disk_space,
    extract_features,
    find_endpoint,
    write_features,
)
from inception_jax.storage.atomic import check_new
from inception_jax.text import format_bytes

# From here on it is said beforehand how large a file will be.
LARGE = 2 * 2**30


def features_of_images(
    images: Images = (),
    /,
    *,
    endpoint: str,
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    model: str | None = None,
    weights: Weights = "ema",
    step: int | None = None,
    pool: bool = False,
    batch_size: int = 32,
) -> None:
    """Write what a network makes of images at one of its endpoints to .npz or .parquet.

    Rows are in the order of the images and go to the disk as they come. Images that cannot
    be read are named on standard error and left out.

    Exits with 0 if all were read, 1 if not.

    Args:
        images: files, folders (all images below) or patterns such as 'photos/**/*.jpg'.
        endpoint: PreLogitsFlatten for the features the classifier sees; any name of
            slim's endpoints. A wrong one gives the list.
        out: file to write, whole or not at all; must not be there yet. .npz has the arrays
            features and names, .parquet the columns name and features.
        model: folder of a model or of a run, or a name; default: the only one there is in
            $INCEPTION_JAX_MODELS or ~/.local/share/inception_jax/models.
        weights: of a run: running averages, or as trained.
        step: of a run: the checkpoint of this step; default: the newest good one.
        pool: the mean over height and width instead of the whole map.
        batch_size: images at a time.
    """
    check_new(out, ".npz", ".parquet")
    paths = expand_image_paths(images)
    _, loaded, variables = load_model(model, weights, step)
    chosen = find_endpoint(loaded, endpoint, pool=pool)
    check_disk_space(out, chosen, len(paths))
    size = len(paths) * chosen.num_bytes
    if size > LARGE:
        print(f"{len(paths):,} images: {format_bytes(size)} to write.", file=sys.stderr)
    watch = Watch(len(paths))

    def watched() -> Iterator[BatchOutputs]:
        batches = extract_features(loaded, variables, paths, chosen, batch_size=batch_size)
        for batch in batches:
            watch.batch(len(batch.paths), batch.errors)
            yield batch

    count = write_features(out, loaded.card, chosen, watched())
    shape = ", ".join(map(str, (count, *chosen.shape)))
    print(f"Wrote {chosen.name} [{shape}] to {out}.")
    watch.end()
