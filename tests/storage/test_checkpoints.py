# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are restored exactly as they were saved, or an error is raised."""

import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.digests import digests
from inception_jax.storage.files import CheckpointError
from tests.storage.states import LIKE, identical, state_of, tree_digest


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with checkpoints of steps 2 and 4, for tests to copy."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state_of(step))
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run" / "checkpoints"))


def test_restored_states_are_bitwise_equal(folder):
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2, 4]
        restored = checkpoints.restore(4, LIKE)
        assert identical(restored, state_of(4))
        assert not identical(restored, state_of(2))
        assert {type(x) for x in jax.tree.leaves(restored)} == {np.ndarray}
        assert checkpoints.record(4).digest == tree_digest(state_of(4))
        assert checkpoints.record(4).digest != checkpoints.record(2).digest
        assert list(checkpoints.read(4))[:2] == ["step", "params/conv/kernel"]


def test_digests_depend_on_dtype_shape_bytes_and_paths():
    x = np.arange(6, dtype=np.int32)
    base = tree_digest({"a": x})
    assert base == tree_digest({"a": jnp.asarray(x)}) == tree_digest({"a": x[::-1][::-1]})
    others = [x.view(np.uint32), x.reshape(2, 3), x + 1, x[:5]]
    assert base not in [tree_digest({"a": other}) for other in others]
    assert base != tree_digest({"b": x})
    # The order in memory does not matter; 0 and -0 differ.
    grid = x.reshape(2, 3)
    assert digests({"a": grid}) == digests({"a": np.asfortranarray(grid)})
    assert digests([np.float32(0.0)]) != digests([np.float32(-0.0)])


def test_later_changes_of_the_state_are_not_saved(tmp_path, monkeypatch):
    begin = threading.Event()
    write = Checkpoints._write
    monkeypatch.setattr(
        Checkpoints, "_write", lambda *arguments: begin.wait(60) and write(*arguments)
    )
    x = np.zeros(4, np.float32)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, {"x": x})
        checkpoints.check()  # does not wait
        assert checkpoints.steps() == []
        x[:] = 1.0
        begin.set()
        checkpoints.wait()
        assert not checkpoints.restore(1, {"x": x})["x"].any()


def test_only_the_newest_checkpoints_are_kept(folder):
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(4, state_of(2))  # exists: unchanged
        checkpoints.save(6, state_of(6))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [4, 6]
        assert identical(checkpoints.restore(4, LIKE), state_of(4))
    assert sorted(path.name for path in folder.iterdir()) == ["4", "6"]


def test_a_partly_removed_checkpoint_is_not_listed(folder, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed before
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(6, state_of(6))
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [6]


def test_reading_changes_nothing(folder, capsys):
    (folder / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (folder / "5").mkdir()
    before = sorted(folder.parent.rglob("*"))
    with Checkpoints(folder) as checkpoints:
        step, state = checkpoints.restore_newest(LIKE)
    assert (step, identical(state, state_of(4))) == (4, True)
    assert "checkpoints/5 is damaged" in capsys.readouterr().err
    assert sorted(folder.parent.rglob("*")) == before
    with Checkpoints(folder / "none") as checkpoints:
        assert checkpoints.restore_newest(LIKE) is None
    assert not (folder / "none").exists()


def test_opening_for_writing_removes_interrupted_writes(folder):
    (folder / "6.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (folder / "1.orbax-checkpoint-tmp-old").mkdir()
    with Checkpoints(folder, keep=3):
        assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]


def test_damaged_checkpoints_are_named_and_quarantined(folder, capsys):
    (folder / "6").mkdir()
    shutil.copytree(folder / "4", folder / "8")  # a copy under the name of another step
    shutil.rmtree(folder / "4" / "digests")
    (folder.parent / "quarantine" / "8").mkdir(parents=True)
    with Checkpoints(folder, keep=3) as checkpoints:
        step, state = checkpoints.restore_newest(LIKE)
        assert (step, identical(state, state_of(2))) == (2, True)
        assert checkpoints.steps() == [2]
        checkpoints.save(4, state_of(4))
        checkpoints.wait()
        assert checkpoints.restore_newest(LIKE)[0] == 4
    said = capsys.readouterr().err
    assert "checkpoints/8 is damaged: it was saved as step 4." in said
    assert "checkpoints/6 is damaged" in said
    assert "checkpoints/4 is damaged" in said
    assert said.endswith("The checkpoint of step 2 is the newest intact one.\n")
    names = ["4", "4.txt", "6", "6.txt", "8", "8-1", "8-1.txt"]
    quarantine = folder.parent / "quarantine"
    assert sorted(path.name for path in quarantine.iterdir()) == names
    assert "saved as step 4" in (quarantine / "8-1.txt").read_text()


def test_only_damaged_checkpoints_are_an_error_every_time(folder, capsys):
    for step in (2, 4):
        (folder / str(step) / "state" / "manifest.ocdbt").write_bytes(b"")
    for _ in range(2):
        with Checkpoints(folder, keep=3) as checkpoints:
            with pytest.raises(CheckpointError, match=r"are damaged \(steps 4, 2\)"):
                checkpoints.restore_newest(LIKE)
            assert checkpoints.steps() == [2, 4]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0].startswith(f"{folder / '4'} is damaged: DATA_LOSS: ")
    assert said[0].count(str(folder)) == 1
    assert 'local file "manifest.ocdbt"' in said[0]
    # A folder whose checkpoints are all in quarantine is not a new run.
    (folder.parent / "quarantine").mkdir()
    shutil.rmtree(folder)
    checkpoints = Checkpoints(folder, keep=3)
    with (
        checkpoints,
        pytest.raises(CheckpointError, match=r"quarantine holds damaged ones"),
    ):
        checkpoints.restore_newest(LIKE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s._replace(step=np.zeros(2, np.int32)),
            r"step: saved int32\[\], expected int32",
        ),
        (
            lambda s: s._replace(step=np.float32(0)),
            r"step: saved int32\[\], expected float32\[\]",
        ),
        (
            lambda s: s._replace(params={"new": s.step}),
            "params/new: saved nothing, expected int32",
        ),
    ],
)
def test_another_structure_is_a_value_error(folder, change, words):
    with Checkpoints(folder, keep=3) as checkpoints:
        with pytest.raises(ValueError, match=words):
            checkpoints.restore_newest(change(state_of(4)))
        assert checkpoints.steps() == [2, 4]
    assert not (folder.parent / "quarantine").exists()
