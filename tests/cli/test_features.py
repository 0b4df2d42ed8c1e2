# SPDX-License-Identifier: Apache-2.0
"""`inception-jax features`: the file it writes, and one line for invalid input."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from inception_jax.cli import features as cli_features
from inception_jax.cli import main as cli
from inception_jax.weights.model import load
from tests.saved import one_by_one, write_images


@pytest.fixture
def features(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run `inception-jax features ARGUMENTS`; return status, standard output and error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = 0
        try:
            cli.main(["features", *map(str, arguments)])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def test_both_formats_hold_the_endpoint(features, model, tmp_path):
    paths = write_images(tmp_path / "a", 5)
    _, endpoints = one_by_one(*load(model), paths)
    expected = endpoints["block8_1"].mean((1, 2))
    arguments = (tmp_path / "a", "--model", model, "--endpoint", "block8_1", "--pool")
    for name in ("x.npz", "x.parquet"):
        out = tmp_path / name
        status, output, errors = features(*arguments, "--out", out, "--batch-size", 4)
        assert (status, errors) == (0, "")
        assert output == f"Wrote block8_1 [5, 8] to {out}.\n"
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert file["names"].tolist() == paths
        np.testing.assert_allclose(file["features"], expected, rtol=1e-4, atol=1e-5)
        table = pyarrow.parquet.read_table(tmp_path / "x.parquet")
        assert table["name"].to_pylist() == paths
        rows = np.array(table["features"].to_pylist(), np.float32)
        np.testing.assert_array_equal(rows, file["features"])


def test_unreadable_images_are_left_out(features, model, tmp_path, monkeypatch):
    monkeypatch.setattr(cli_features, "LARGE", 300)
    paths = write_images(tmp_path / "a", 3)
    Path(paths[1]).write_text("no image")
    out = tmp_path / "x.npz"
    arguments = ("--model", model, "--endpoint", "block8_1", "--out", out)
    status, output, errors = features(tmp_path / "a", *arguments)
    assert (status, output) == (1, f"Wrote block8_1 [2, 4, 4, 8] to {out}.\n")
    large, fault, last = errors.splitlines()
    assert large == "Writing 1.5 kB for 3 images."
    assert fault.startswith(f"inception-jax: '{paths[1]}' cannot be read: ")
    assert last == "inception-jax: 1 of 3 images could not be read and were left out."
    assert np.load(out, allow_pickle=False)["names"].tolist() == paths[::2]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--endpoint", "block8_1"], "no images specified"),
        (["DIR/00.png", "--endpoint", "block8_2"], "did you mean block8_1? It has: "),
        (["DIR/00.png", "--endpoint", "Logits", "--pool"], "has no height and width"),
        (["DIR/00.png", "--endpoint", "Logits", "--out", "DIR/x.npy"], ".npz or .parquet"),
        (["DIR/00.png", "--endpoint", "Logits", "--out", "DIR/old.npz"], "already exists"),
        (["DIR/00.png", "--endpoint", "Logits", "--batch-size", "-1"], "got -1"),
        (["DIR/00.png", "--endpoint", "Logits", "--step", "3"], "one set of weights"),
        (["DIR/00.png", "--endpoint", "Logits", "--weights", "raw"], "set of weights"),
    ],
)
def test_invalid_input_is_one_line(features, model, tmp_path, arguments, part):
    write_images(tmp_path, 1)
    (tmp_path / "old.npz").write_text("mine")
    arguments = [a.replace("DIR", str(tmp_path)) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "x.npz")]
    status, output, errors = features(*arguments, "--model", model)
    assert (status, output) == (2, "")
    assert errors.startswith("inception-jax: ")
    assert errors.count("\n") == 1
    assert part in errors
    assert not list(tmp_path.glob("x*"))
    assert (tmp_path / "old.npz").read_text() == "mine"
