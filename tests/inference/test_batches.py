# SPDX-License-Identifier: Apache-2.0
"""Batched outputs for image files equal those of each image alone."""

from pathlib import Path

import numpy as np
import pytest

from inception_jax.inference.batches import apply_to_files, padded_size
from inception_jax.models.zoo import SPECS
from tests.models.tiny import one_block
from tests.saved import one_by_one, save_tiny, write_images


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", one_block())


def take(logits, endpoints):
    return {"logits": logits, "map": endpoints["block8_1"]}


def test_batches_equal_single_images(tmp_path):
    model, variables = save_tiny(tmp_path / "model")
    paths = write_images(tmp_path, 10)[::-1]
    batches = list(apply_to_files(model, variables, paths, take, batch_size=3))
    # Four devices round a batch up to four.
    assert [len(batch.paths) for batch in batches] == [4, 4, 2]
    assert [path for batch in batches for path in batch.paths] == paths
    _, expected = one_by_one(model, variables, paths)
    for name, endpoint in (("logits", "Logits"), ("map", "block8_1")):
        found = np.concatenate([batch.values[name] for batch in batches])
        np.testing.assert_allclose(found, expected[endpoint], rtol=1e-4, atol=1e-5)


def test_one_program_serves_all_batches(tmp_path, compilations):
    model, variables = save_tiny(tmp_path / "model")
    paths = write_images(tmp_path, 9)
    counts = []
    for images in (4, 9):
        compilations.clear()
        list(apply_to_files(model, variables, paths[:images], take, batch_size=4))
        counts.append(len(compilations))
    assert counts[0] == counts[1] > 0


def test_unreadable_images_are_named_and_change_nothing_else(tmp_path):
    model, variables = save_tiny(tmp_path / "model")
    paths = write_images(tmp_path, 6)
    whole = list(apply_to_files(model, variables, paths, take, batch_size=4))
    expected = np.concatenate([batch.values["logits"] for batch in whole])
    data = Path(paths[1]).read_bytes()
    Path(paths[1]).write_bytes(data[: len(data) // 2])
    Path(paths[5]).write_text("no image")
    first, last = apply_to_files(model, variables, paths, take, batch_size=4)
    assert (first.paths, last.paths) == ([paths[i] for i in (0, 2, 3)], [paths[4]])
    assert [len(batch.errors) for batch in (first, last)] == [1, 1]
    assert "01.png" in first.errors[0]
    assert "05.png' cannot be read: it starts with b'no image'" in last.errors[0]
    np.testing.assert_array_equal(first.values["logits"], expected[[0, 2, 3]])
    np.testing.assert_array_equal(last.values["logits"], expected[[4]])


@pytest.mark.parametrize(
    ("images", "batch_size", "devices", "expected"),
    [
        *((1, 32, 1, 1), (2, 32, 1, 2), (3, 32, 1, 4), (17, 32, 1, 32)),
        *((33, 32, 1, 32), (1000, 24, 1, 24), (20, 24, 1, 24)),
        *((1, 32, 8, 8), (1000, 30, 8, 32)),
    ],
)
def test_sizes_of_batches(images, batch_size, devices, expected):
    assert padded_size(images, batch_size, devices) == expected


def test_a_batch_size_of_zero_is_rejected(tmp_path):
    model, variables = save_tiny(tmp_path / "model")
    paths = write_images(tmp_path, 1)
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        next(apply_to_files(model, variables, paths, take, batch_size=0))
