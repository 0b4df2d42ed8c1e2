# SPDX-License-Identifier: Apache-2.0
"""The command `inception-jax predict`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from inception_jax.cli import arguments as shared
from inception_jax.cli.progress import ImageProgress
from inception_jax.data.image_paths import expand_image_paths
from inception_jax.inference.contact_sheet import contact_sheets, num_pages
from inception_jax.inference.predict import Prediction, predict, to_csv, to_json
from inception_jax.storage.files import atomic_output, check_output_path
from inception_jax.text import one_line, printable

STDOUT = Path("-")

OutputFile = Annotated[Path | None, shared.option("FILE", "not written")]


def predict_images(
    images: shared.Images = (),
    /,
    model: shared.ModelName = None,
    weights: shared.Weights = "ema",
    step: shared.Step = None,
    top: int = 5,
    batch_size: shared.BatchSize = 32,
    json: OutputFile = None,
    csv: OutputFile = None,
    sheet: OutputFile = None,
) -> None:
    """Classify images and print the most likely classes with their probabilities.

    Example: inception-jax predict photos --model models/v4 --csv predictions.csv

    Preprocessing and class names are those of the model. Unreadable images are reported on
    standard error and left out. Exit status: 0 if all images were read, 1 if some were not,
    2 for invalid arguments, 74 if the model is damaged or a file cannot be written.

    Args:
        top: Number of classes per image.
        json: Write predictions to this new .json file, or to standard output with '-'.
        csv: Write predictions to this new .csv file, or to standard output with '-'.
        sheet: Write thumbnails with the most likely class to this new .png file, 40 on a
            page. Further pages are FILE-2.png, FILE-3.png, ...
    """
    prints_file = STDOUT in (json, csv)
    if json == csv == STDOUT:
        raise ValueError("--json - and --csv - would be mixed; write one to a file.")
    paths = expand_image_paths(images)
    pages = _page_paths(sheet, len(paths))
    outputs = [(json, ".json"), (csv, ".csv"), *((page, ".png") for page in pages)]
    for out, suffix in outputs:
        if out is not None and out != STDOUT:
            check_output_path(out, suffix)
    name, loaded, variables = shared.load_model(model, weights, step)
    progress = ImageProgress(len(paths))
    predictions: list[Prediction] = []
    for batch, errors in predict(loaded, variables, paths, top=top, batch_size=batch_size):
        predictions += batch
        if not prints_file:
            progress.clear_line()
            _print_predictions(batch)
        progress.add_batch(len(batch), errors)
    if json is not None:
        _write(json, to_json(loaded.card, name, predictions, progress.errors))
    if csv is not None:
        _write(csv, to_csv(predictions))
    # There are fewer pages than planned if images could not be read.
    for page, path in zip(contact_sheets(predictions), pages, strict=False):
        with atomic_output(path) as draft:
            page.save(draft, "PNG")
    progress.finish()


def _print_predictions(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        print(one_line(prediction.path))
        for guess in prediction.guesses:
            label = guess.title
            if guess.title != guess.class_name:
                label += f" ({guess.class_name})"
            print(f"  {guess.probability:7.2%}  {one_line(label)}")


def _page_paths(sheet: Path | None, images: int) -> list[Path]:
    """Return FILE.png, FILE-2.png, ..., enough for `images` thumbnails."""
    if sheet is None:
        return []
    numbers = range(2, num_pages(images) + 1)
    return [sheet, *(sheet.with_stem(f"{sheet.stem}-{i}") for i in numbers)]


def _write(out: Path, text: str) -> None:
    # File names that are not valid UTF-8 are written as their original bytes.
    if out != STDOUT:
        with atomic_output(out) as draft:
            draft.write_bytes(text.encode("utf-8", "surrogateescape"))
        return
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
