# SPDX-License-Identifier: Apache-2.0
"""Features equal the endpoints of the network; NumPy and pyarrow read their files."""

import json
import os
import shutil
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest

from inception_jax.inference import features as module
from inception_jax.inference.batches import BatchOutputs
from inception_jax.inference.features import (
    Endpoint,
    check_disk_space,
    extract_features,
    find_endpoint,
    write_features,
)
from inception_jax.models.zoo import SPECS
from inception_jax.storage.files import CheckpointError
from tests.models.tiny import one_block
from tests.saved import CARD, one_by_one, save_tiny, write_images

ROWS = np.arange(7 * 12, dtype=np.float32).reshape(7, 2, 2, 3)
NAMES = [f"{i}.png" for i in range(5)] + ["two\nlines, \xe9.png", os.fsdecode(b"\xff.png")]
MAP = Endpoint("block8_1", False, (2, 2, 3))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setitem(SPECS, "tiny", one_block())


def batches():
    """Yield `ROWS` in batches, one of them without a readable image."""
    for a, b in ((0, 3), (3, 3), (3, 7)):
        yield BatchOutputs(NAMES[a:b], ROWS[a:b], [])


def test_features_are_the_networks_endpoints(tmp_path):
    model, variables = save_tiny(tmp_path / "model")
    paths = write_images(tmp_path, 5)
    _, endpoints = one_by_one(model, variables, paths)
    for name, pool, shape in (
        ("block8_1", False, (4, 4, 8)),
        ("block8_1", True, (8,)),
        ("Logits", False, (6,)),
    ):
        endpoint = find_endpoint(model, name, pool=pool)
        assert (endpoint.shape, endpoint.num_bytes) == (shape, 4 * np.prod(shape))
        found = list(extract_features(model, variables, paths, endpoint, batch_size=4))
        assert [path for batch in found for path in batch.paths] == paths
        expected = endpoints[name].mean((1, 2)) if pool else endpoints[name]
        values = np.concatenate([batch.values for batch in found])
        assert (values.dtype, values.shape) == (np.float32, (5, *shape))
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_unknown_endpoints_are_rejected(tmp_path):
    model, variables = save_tiny(tmp_path / "model", class_names=())
    with pytest.raises(
        ValueError, match=r"no endpoint 'block8_2'; did you mean block8_1\? "
    ):
        find_endpoint(model, "block8_2")
    with pytest.raises(
        ValueError, match=r"'xyz'; It has: .*PreLogitsFlatten, .*block8_1, global_pool\."
    ):
        find_endpoint(model, "xyz")
    with pytest.raises(ValueError, match="global_pool has no height and width"):
        find_endpoint(model, "global_pool", pool=True)
    # A model without classes still has features.
    endpoint = find_endpoint(model, "PreLogitsFlatten")
    (batch,) = extract_features(model, variables, write_images(tmp_path, 1), endpoint)
    assert batch.values.shape == (1, 8)


def test_npz_is_read_without_pickle(tmp_path):
    assert write_features(tmp_path / "a.npz", CARD, MAP, batches()) == 7
    assert os.listdir(tmp_path) == ["a.npz"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert sorted(found) == ["endpoint", "features", "model.json", "names"]
        np.testing.assert_array_equal(found["features"], ROWS)
        assert found["features"].dtype == np.float32
        assert found["names"].tolist() == NAMES
        assert str(found["endpoint"]) == "block8_1"
        about = json.loads(str(found["model.json"]))
    assert about == json.loads(json.dumps(asdict(CARD)))


@pytest.mark.parametrize(("group", "groups"), [(2**20, 1), (100, 2)])
def test_parquet_has_a_row_for_each_image(tmp_path, monkeypatch, group, groups):
    monkeypatch.setattr(module, "GROUP_BYTES", group)
    assert write_features(tmp_path / "a.parquet", CARD, MAP, batches()) == 7
    assert os.listdir(tmp_path) == ["a.parquet"]
    file = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet")
    assert file.num_row_groups == groups
    found = file.read()
    assert found["name"].to_pylist() == [*NAMES[:-1], "\\xff.png"]
    rows = np.array(found["features"].to_pylist(), np.float32)
    np.testing.assert_array_equal(rows, ROWS.reshape(7, 12))
    about = {key.decode(): value.decode() for key, value in found.schema.metadata.items()}
    assert (about["endpoint"], json.loads(about["shape"])) == ("block8_1", [2, 2, 3])
    assert json.loads(about["model.json"]) == json.loads(json.dumps(asdict(CARD)))


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_an_interrupted_and_an_empty_file(tmp_path, ending):
    def stops():
        yield next(batches())
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="cannot be written: No space left"):
        write_features(tmp_path / f"a{ending}", CARD, MAP, stops())
    assert os.listdir(tmp_path) == []
    nothing = [BatchOutputs([], ROWS[:0], ["'x' cannot be read."])]
    assert write_features(tmp_path / f"a{ending}", CARD, MAP, nothing) == 0
    if ending == ".npz":
        shape = np.load(tmp_path / "a.npz", allow_pickle=False)["features"].shape
        assert shape == (0, 2, 2, 3)
    else:
        assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 0


@pytest.mark.parametrize(("ending", "copies"), [(".npz", 2), (".parquet", 1)])
def test_too_little_disk_space_is_rejected(tmp_path, monkeypatch, ending, copies):
    out = tmp_path / f"a{ending}"
    for more, fits in ((0, True), (-1, False)):
        free = SimpleNamespace(free=copies * 1000 * MAP.num_bytes + more)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: free)
        if fits:
            check_disk_space(out, MAP, 1000)
        else:
            with pytest.raises(
                ValueError, match=r"writing 48\.0 kB of block8_1 for 1,000 images"
            ):
                check_disk_space(out, MAP, 1000)
