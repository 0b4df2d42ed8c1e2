# SPDX-License-Identifier: Apache-2.0
"""Files are written completely or not at all, and never replace another."""

import pytest

from inception_jax.storage.files import CheckpointError, atomic_output, check_output_path


def test_a_file_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "a.csv"
    with atomic_output(out) as draft:
        draft.write_text("whole")
        assert not out.exists()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("x")])
def test_an_incomplete_file_is_removed(tmp_path, error):
    expected = CheckpointError if isinstance(error, OSError) else type(error)

    def write():
        with atomic_output(tmp_path / "a.csv") as draft:
            draft.write_text("ha")
            raise error

    with pytest.raises(expected) as raised:
        write()
    assert list(tmp_path.iterdir()) == []
    if expected is CheckpointError:
        path = tmp_path / "a.csv"
        assert str(raised.value) == f"{path} cannot be written: No space left on device."


def test_an_incomplete_folder_is_removed(tmp_path):
    def write():
        with atomic_output(tmp_path / "model") as draft:
            draft.mkdir()
            (draft / "weights").write_text("ha")
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="model cannot be written: No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_error_is_raised_unchanged(tmp_path):
    damage = CheckpointError("the weights are damaged.")

    def write():
        with atomic_output(tmp_path / "a.csv"):
            raise damage

    with pytest.raises(CheckpointError) as raised:
        write()
    assert raised.value is damage


def test_existing_files_and_other_suffixes_are_refused(tmp_path):
    check_output_path(tmp_path / "a.csv", ".npz", ".csv")
    (tmp_path / "a.csv").write_text("mine")
    (tmp_path / "b.csv").symlink_to(tmp_path / "nothing")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(ValueError, match=rf"{name} already exists"):
            check_output_path(tmp_path / name, ".csv")
    for path in (tmp_path / "c.txt", tmp_path / "none" / "c.csv"):
        with pytest.raises(
            ValueError, match=r"expected a \.npz or \.csv file in an existing folder"
        ):
            check_output_path(path, ".npz", ".csv")
