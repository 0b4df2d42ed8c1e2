# SPDX-License-Identifier: Apache-2.0
"""`inception-jax predict`: what it prints and writes, and one line for invalid input."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import sklearn

from inception_jax.cli import main as cli
from inception_jax.cli import predict as cli_predict
from inception_jax.data.imagenet import imagenet_ids
from inception_jax.weights.model import Model, load, save
from tests.models.tiny import random_variables
from tests.saved import CARD, CLASS_NAMES, one_by_one, save_tiny, write_images

PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"


@pytest.fixture
def predict(capsysbinary) -> Callable[..., tuple[int, str, str]]:
    """Run `inception-jax predict ARGUMENTS`; return status, standard output and error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(["predict", *map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        out, err = capsysbinary.readouterr()
        return status, os.fsdecode(out), os.fsdecode(err)

    return run


def test_printed_list(predict, model, tmp_path):
    paths = write_images(tmp_path / "a", 5)
    status, output, errors = predict(tmp_path / "a", "--model", model, "--batch-size", 4)
    assert (status, errors) == (0, "")
    expected = []
    probabilities, _ = one_by_one(*load(model), paths)
    for path, each in zip(paths, probabilities, strict=True):
        expected.append(path)
        for k in np.argsort(-each)[:5]:
            name = {
                0: "golden retriever (n02099601)",
                3: "two\\nlines",
                4: "\\x1b[31mred",
            }.get(int(k), CLASS_NAMES[k])
            expected.append(f"  {each[k]:7.2%}  {name}")
    assert output.splitlines() == expected
    status, output, _ = predict(paths[0], "--model", model, "--top", 1)
    assert output.splitlines() == expected[:2]


def test_files_written_besides_the_list(predict, model, tmp_path):
    odd = tmp_path / "a" / os.fsdecode(b"\xff, \n\x1b[31m.png")
    odd.parent.mkdir()
    PIL.Image.new("RGB", (30, 20), "red").save(odd)
    paths = [*write_images(tmp_path / "a", 2), str(odd)]
    outs = [tmp_path / f"x.{kind}" for kind in ("json", "csv", "png")]
    options = zip(("--json", "--csv", "--sheet"), outs, strict=True)
    arguments = (*paths, "--model", model, "--top", 2)
    status, output, errors = predict(*arguments, *(a for pair in options for a in pair))
    assert (status, errors) == (0, "")
    assert f"{tmp_path}/a/\\udcff, \\n\\x1b[31m.png" in output.splitlines()
    document = json.loads(outs[0].read_text())
    assert document["model"]["name"] == str(model)
    assert [image["image"] for image in document["images"]] == paths
    assert document["not_read"] == []
    text = os.fsdecode(outs[1].read_bytes())
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    assert [(row[0], row[2], float(row[4])) for row in rows] == [
        (image["image"], guess["class"], guess["probability"])
        for image in document["images"]
        for guess in image["predictions"]
    ]
    with PIL.Image.open(outs[2]) as picture:
        assert picture.size == (3 * 248, 258)
    for option, out in (("--json", outs[0]), ("--csv", outs[1])):
        status, output, errors = predict(*arguments, option, "-")
        assert (status, errors) == (0, "")
        assert output.encode("utf-8", "surrogateescape") == out.read_bytes()


def test_csv_on_a_terminal_is_escaped(predict, model, tmp_path, monkeypatch):
    PIL.Image.new("L", (9, 9)).save(tmp_path / "\x1b[31m.png")
    arguments = (tmp_path / "\x1b[31m.png", "--model", model, "--csv", "-")
    assert "\x1b" in predict(*arguments)[1]
    monkeypatch.setattr(cli_predict.sys.stdout, "isatty", lambda: True)
    assert "\x1b" not in predict(*arguments)[1]


def test_unreadable_images_are_left_out(predict, model, tmp_path):
    paths = write_images(tmp_path / "a", 4)
    for i, data in ((1, b""), (3, Path(paths[3]).read_bytes()[:70])):
        Path(paths[i]).write_bytes(data)
    outs = [tmp_path / name for name in ("x.json", "x.png")]
    options = ("--json", outs[0], "--sheet", outs[1])
    status, output, errors = predict(tmp_path / "a", "--model", model, *options)
    assert status == 1
    assert [line for line in output.splitlines() if line[0] != " "] == paths[::2]
    first, second, last = errors.splitlines()
    assert first == f"inception-jax: '{paths[1]}' cannot be read: the file is empty."
    assert second.startswith(f"inception-jax: '{paths[3]}' cannot be read: ")
    assert last == ("inception-jax: 2 of 4 images could not be read and were left out.")
    document = json.loads(outs[0].read_text())
    assert [image["image"] for image in document["images"]] == paths[::2]
    assert [f"inception-jax: {fault}" for fault in document["not_read"]] == [first, second]
    with PIL.Image.open(outs[1]) as picture:
        assert picture.size == (2 * 248, 258)
    # No image can be read, so no sheet is drawn.
    status, output, _ = predict(
        *paths[1::2], "--model", model, "--sheet", tmp_path / "y.png"
    )
    assert (status, output) == (1, "")
    assert not list(tmp_path.glob("y*"))


def test_many_images_take_several_pages(predict, model, tmp_path):
    image = tmp_path / "a" / "00.png"
    image.parent.mkdir()
    PIL.Image.new("L", (8, 8)).save(image)
    for i in range(1, 41):
        (image.parent / f"{i:02}.png").symlink_to(image)
    out = tmp_path / "x.png"
    (tmp_path / "x-2.png").write_text("mine")
    arguments = (tmp_path / "a", "--model", model, "--sheet", out)
    status, _, errors = predict(*arguments)
    assert (status, errors) == (
        2,
        f"inception-jax: {tmp_path}/x-2.png already exists; remove it or choose another.\n",
    )
    assert not out.exists()
    (tmp_path / "x-2.png").unlink()
    assert predict(*arguments)[0] == 0
    assert sorted(path.name for path in tmp_path.glob("x*")) == ["x-2.png", "x.png"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "no images specified; expected files, folders or patterns"),
        (["DIR/none"], "none' does not exist; expected an image"),
        (["DIR/model"], "model' contains no images: none of its 2 files"),
        (["DIR/*.gif"], "no image matches"),
        (["DIR/00.png", "--model", "DIR/none"], "there is no model"),
        (["DIR/00.png", "--top", "0"], "top must be 1 or more, got 0"),
        (["DIR/00.png", "--batch-size", "0"], "batch_size must be 1 or more, got 0"),
        (["DIR/00.png", "--step", "3"], "one set of weights"),
        (["DIR/00.png", "--weights", "raw"], "one set of weights"),
        (["DIR/00.png", "--json", "-", "--csv", "-"], "would be mixed"),
        (
            ["DIR/00.png", "--json", "DIR/x.csv"],
            "expected a .json file in an existing folder",
        ),
        (
            ["DIR/00.png", "--csv", "DIR/no/x.csv"],
            "expected a .csv file in an existing folder",
        ),
        (["DIR/00.png", "--sheet", "DIR/00.png"], "00.png already exists"),
    ],
)
def test_invalid_input_is_one_line(predict, model, tmp_path, arguments, part):
    write_images(tmp_path, 1)
    arguments = [a.replace("DIR", str(tmp_path)) for a in arguments]
    if "--model" not in arguments:
        arguments += ["--model", str(model)]
    status, output, errors = predict(*arguments)
    assert (status, output) == (2, "")
    assert errors.startswith("inception-jax: ")
    assert errors.count("\n") == 1
    assert part in errors
    assert not list(tmp_path.glob("x*"))


def test_a_model_without_classes_points_to_features(predict, model, tmp_path):
    save_tiny(tmp_path / "face", class_names=())
    path = write_images(tmp_path, 1)[0]
    status, _, errors = predict(path, "--model", tmp_path / "face")
    assert status == 2
    assert "use inception-jax features IMAGE... --endpoint NAME --out FILE" in errors


def test_two_photographs(predict, model):
    status, output, errors = predict(PHOTOS, "--model", model, "--json", "-")
    assert (status, errors) == (0, "")
    china, flower = json.loads(output)["images"]
    paths = [image["image"] for image in (china, flower)]
    assert [Path(path).name for path in paths] == ["china.jpg", "flower.jpg"]
    expected, _ = one_by_one(*load(model), paths)
    for image, probabilities in zip((china, flower), expected, strict=True):
        printed = [guess["probability"] for guess in image["predictions"]]
        np.testing.assert_allclose(printed, np.sort(probabilities)[:-6:-1], rtol=1e-4)
    assert china["predictions"] != flower["predictions"]


@pytest.mark.slow
def test_two_photographs_at_full_size(predict, tmp_path):
    card = replace(
        CARD,
        network="inception_v4",
        preprocess=replace(CARD.preprocess, image_shape=(299, 299, 3), low=-1.0, high=1.0),
        class_names=imagenet_ids(),
        bn_scale=False,
        residual_scale=None,
    )
    variables = random_variables(Model(card).network, jnp.zeros((1, 299, 299, 3)))
    save(tmp_path / "v4", card, variables)
    out = tmp_path / "sheet.png"
    arguments = (PHOTOS, "--model", tmp_path / "v4", "--json", "-", "--sheet", out)
    status, output, errors = predict(*arguments)
    assert (status, errors) == (0, "")
    images = json.loads(output)["images"]
    model, variables = load(tmp_path / "v4")
    ready = model.prepare([image["image"] for image in images])
    logits, _ = jax.jit(model.apply)(variables, ready)
    expected = np.asarray(jax.nn.softmax(logits))
    for image, probabilities in zip(images, expected, strict=True):
        printed = {guess["class"]: guess["probability"] for guess in image["predictions"]}
        best = np.sort(probabilities)[:-6:-1]
        np.testing.assert_allclose(list(printed.values()), best, rtol=1e-3)
        for name, probability in printed.items():
            at = imagenet_ids().index(name)
            np.testing.assert_allclose(probability, probabilities[at], rtol=1e-3)
    with PIL.Image.open(out) as picture:
        assert picture.size == (2 * 248, 258)
