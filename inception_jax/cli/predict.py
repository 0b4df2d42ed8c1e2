# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax predict`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from inception_jax.cli.images import Images, Watch, Weights, load_model
from inception_jax.data.image_paths import expand_image_paths
from inception_jax.inference.contact_sheet import contact_sheets, num_pages
from inception_jax.inference.predict import Prediction, predict, to_csv, to_json
from inception_jax.storage.atomic import check_new, new_file
from inception_jax.text import one_line, printable

STDOUT = Path("-")

Out = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]


def predict_images(
    images: Images = (),
    /,
    model: str | None = None,
    weights: Weights = "ema",
    step: int | None = None,
    top: int = 5,
    batch_size: int = 32,
    json: Out = None,
    csv: Out = None,
    sheet: Out = None,
) -> None:
    """What is on images: the likeliest classes with their probabilities.

    How images are cut and resized, and what the classes are called, is read from the
    model. Images that cannot be read are named on standard error and left out.

    Exits with 0 if all were read, 1 if not.

    Args:
        images: files, folders (all images below) or patterns such as 'photos/**/*.jpg'.
        model: folder of a model or of a run, or a name; default: the only one there is in
            $INCEPTION_JAX_MODELS or ~/.local/share/inception_jax/models.
        weights: of a run: running averages, or as trained.
        step: of a run: the checkpoint of this step; default: the newest good one.
        top: how many classes of each image.
        batch_size: images at a time.
        json: file .json to write as well, or - for standard output instead of the list.
        csv: file .csv to write as well, or - likewise.
        sheet: picture .png to draw: thumbnails with the likeliest class and its
            probability, 40 on a page; further pages are FILE-2.png, ...
    """
    to_stdout = [out for out in (json, csv) if out == STDOUT]
    if len(to_stdout) > 1:
        raise ValueError("--json - and --csv - would be mixed; give one of them a file.")
    paths = expand_image_paths(images)
    pages = _pages(sheet, len(paths))
    for out, ending in ((json, ".json"), (csv, ".csv"), *((p, ".png") for p in pages)):
        if out is not None and out != STDOUT:
            check_new(out, ending)
    name, loaded, variables = load_model(model, weights, step)
    watch, predictions = Watch(len(paths)), []
    batches = predict(loaded, variables, paths, top=top, batch_size=batch_size)
    for found, faults in batches:
        predictions += found
        if not to_stdout:
            watch.clear()
            _print(found)
        watch.batch(len(found), faults)
    if json is not None:
        _write(json, to_json(loaded.card, name, predictions, watch.faults))
    if csv is not None:
        _write(csv, to_csv(predictions))
    for page, path in zip(contact_sheets(predictions), pages, strict=False):
        with new_file(path) as draft:
            page.save(draft, "PNG")
    watch.end()


def _print(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        print(one_line(prediction.path))
        for guess in prediction.guesses:
            also = "" if guess.title == guess.class_name else f" ({guess.class_name})"
            print(f"  {guess.probability:7.2%}  {one_line(guess.title + also)}")


def _pages(sheet: Path | None, images: int) -> list[Path]:
    """FILE.png, FILE-2.png, ... for so many images."""
    if sheet is None:
        return []
    numbers = range(2, num_pages(images) + 1)
    return [sheet, *(sheet.with_stem(f"{sheet.stem}-{i}") for i in numbers)]


def _write(out: Path, text: str) -> None:
    # Names that are not UTF-8 as the bytes they are.
    if out != STDOUT:
        with new_file(out) as draft:
            draft.write_bytes(text.encode("utf-8", "surrogateescape"))
        return
    shown = printable(text) if sys.stdout.isatty() else text
    sys.stdout.flush()
    sys.stdout.buffer.write(shown.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
