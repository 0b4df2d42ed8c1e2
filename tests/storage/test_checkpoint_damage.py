# SPDX-License-Identifier: Apache-2.0
"""Flipped bits and missing files never lead to wrong values."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.digests import Record, flatten_with_paths
from tests.storage.states import identical, state_of


def contents(whole: bytes, flips: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    for _ in range(flips):
        bit = rng.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(flipped)
    yield "truncated", whole[: len(whole) // 2]
    yield "zeroed", bytes(len(whole))
    yield "empty", b""


def every_damage(folder: Path, flips: int) -> Iterator[str]:
    """Damage each file of a folder in every way, restoring it each time."""
    rng = random.Random(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        for kind, content in contents(whole, flips, rng):
            path.write_bytes(content)
            yield f"{path.relative_to(folder)} {kind}"
        path.unlink()
        yield f"{path.relative_to(folder)} deleted"
        path.write_bytes(whole)


def try_every_damage(
    folder: Path, flips: int, good: dict[int, Any], capsys: pytest.CaptureFixture
) -> tuple[int, int]:
    """Return how many kinds of damage of the newest step were tried and how many detected.

    Each time the newest step is restored exactly, or the one before it, with a message.
    """
    newest, tried, detected = max(good), 0, 0
    for what in every_damage(folder / str(newest), flips):
        with Checkpoints(folder) as checkpoints:
            step, state = checkpoints.restore_newest(good[newest])
        said = capsys.readouterr().err
        assert identical(state, good[step]), what
        assert (f"{folder / str(newest)} is damaged" in said) == (step != newest), what
        assert "Traceback" not in said, what
        tried, detected = tried + 1, detected + (step != newest)
    return tried, detected


def test_no_damage_leads_to_wrong_values(tmp_path, capsys):
    good = {step: state_of(step) for step in (2, 4)}
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        for step, state in good.items():
            checkpoints.save(step, state)
    tried, detected = try_every_damage(tmp_path / "checkpoints", 1, good, capsys)
    assert tried >= 50
    assert detected >= 20  # the rest is never read


@pytest.mark.slow
def test_no_damage_of_a_run_leads_to_wrong_values(tiny, tmp_path, capsys):
    from inception_jax.training.fit import fit

    fit(replace(tiny, workdir=tmp_path, steps=2, checkpoint_every=0.01))
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        good = {step: checkpoints.read(step) for step in checkpoints.steps()}
    tried, detected = try_every_damage(folder, 20, good, capsys)
    with capsys.disabled():
        print(f"{tried} damages, {detected} detected, the others harmless")
    assert tried >= 300
    assert detected >= 100


def test_damaged_leaves_are_named():
    state = jax.tree.map(np.array, state_of(1))
    record = Record.of(1, state)
    arrays = flatten_with_paths(state)
    assert record.damaged_leaves(arrays) == []
    arrays["params/conv/kernel"].view(np.uint32)[2, 2, 7, 15] ^= 1
    assert record.damaged_leaves(arrays) == ["params/conv/kernel"]
    del arrays["step"]
    arrays["new"] = np.zeros(1)
    assert record.damaged_leaves(arrays) == ["step", "params/conv/kernel", "new"]


def test_a_changed_record_is_refused():
    def change(path: tuple, new: Any) -> dict[str, Any]:
        value = inner = json.loads(text)
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = new
        return value

    record = Record.of(1, jax.tree.map(np.array, state_of(1)))
    text = json.dumps(record.to_json())
    assert Record.from_json(json.loads(text)) == record
    leaf = ("leaves", 0)
    changed = [change(("step",), 2), change((*leaf, "name"), "stop")]
    changed += [change((*leaf, "dtype"), "int16"), change((*leaf, "shape"), [1])]
    changed += [change((*leaf, "sha256"), "0"), change(("sha256",), "0")]
    for value in (*changed, {}, [], None):
        with pytest.raises(ValueError, match="does not match its own checksum"):
            Record.from_json(value)
