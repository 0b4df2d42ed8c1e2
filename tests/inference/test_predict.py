# SPDX-License-Identifier: Apache-2.0
"""Predictions are the network's most likely classes; JSON and CSV contain all of them."""

import csv
import io
import json
from dataclasses import asdict

import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.inference.predict import Guess, Prediction, predict, to_csv, to_json
from inception_jax.models.zoo import SPECS
from inception_jax.storage.files import CheckpointError
from tests.models.tiny import one_block
from tests.saved import CARD, CLASS_NAMES, one_by_one, save_tiny, write_images

ODD = [
    Prediction("a, b\n\udcff.png", (Guess(CLASS_NAMES[0], 0.75), Guess("plain", 0.125))),
    Prediction("caf\xe9\r.png", tuple(Guess(name, 1 / 3) for name in CLASS_NAMES[2:4])),
]


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", one_block())


def test_probabilities_are_those_of_the_network(tmp_path):
    model, variables = save_tiny(tmp_path / "model")
    paths = write_images(tmp_path, 5)
    expected, _ = one_by_one(model, variables, paths)
    assert np.ptp(expected, axis=0).max() > 0.05  # no two images are alike
    for top, given in ((3, 3), (100, 6)):
        batches = predict(model, variables, paths, top=top, batch_size=4)
        found = [prediction for predictions, _ in batches for prediction in predictions]
        assert [prediction.path for prediction in found] == paths
        for prediction, probabilities in zip(found, expected, strict=True):
            best = np.argsort(-probabilities)[:given]
            classes = [guess.class_name for guess in prediction.guesses]
            assert classes == [CLASS_NAMES[k] for k in best]
            np.testing.assert_allclose(
                [guess.probability for guess in prediction.guesses],
                probabilities[best],
                rtol=1e-4,
            )


def test_invalid_requests_and_nan_are_rejected(tmp_path):
    paths = write_images(tmp_path, 2)
    model, variables = save_tiny(tmp_path / "model")
    with pytest.raises(ValueError, match="top must be 1 or more, got 0"):
        predict(model, variables, paths, top=0)
    variables["params"]["Logits"]["bias"] = jnp.full(6, np.nan)
    with pytest.raises(CheckpointError, match=r"probabilities of '.*00\.png' are NaN"):
        list(predict(model, variables, paths))
    model, variables = save_tiny(tmp_path / "features", class_names=())
    with pytest.raises(ValueError, match=r"has no classifier.* use inception-jax features"):
        predict(model, variables, paths)


def test_titles():
    assert Guess("n02099601", 0.5).title == "golden retriever"
    assert Guess("plain", 0.5).title == "plain"


def test_json_holds_everything():
    found = json.loads(to_json(CARD, "mine", ODD, ["'x.png' cannot be read."]))
    assert found["model"] == {
        "name": "mine",
        "network": "tiny",
        "classes": 6,
        "origin": asdict(CARD.origin),
        "preprocess": {**asdict(CARD.preprocess), "image_shape": [8, 8, 1]},
    }
    assert found["not_read"] == ["'x.png' cannot be read."]
    assert [image["image"] for image in found["images"]] == [p.path for p in ODD]
    assert found["images"][0]["predictions"] == [
        {"class": "n02099601", "title": "golden retriever", "probability": 0.75},
        {"class": "plain", "title": "plain", "probability": 0.125},
    ]
    assert found["images"][1]["predictions"][1]["class"] == "two\nlines"


def test_csv_has_a_row_for_each_image_and_rank():
    header, *rows = csv.reader(io.StringIO(to_csv(ODD), newline=""))
    assert header == ["image", "rank", "class", "title", "probability"]
    expected = [
        [p.path, str(rank), guess.class_name, guess.title, repr(guess.probability)]
        for p in ODD
        for rank, guess in enumerate(p.guesses, 1)
    ]
    assert rows == expected
    assert [row[1] for row in rows] == ["1", "2", "1", "2"]
