# SPDX-License-Identifier: Apache-2.0
"""`inception-jax ckpt`: its output, and one line for invalid input."""

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inception_jax.cli import main as cli
from inception_jax.config import PreprocessSpec
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.run_folder import RunRecord, Session, read_record, write_record
from tests.runs import CONFIG
from tests.storage.states import tree_digest

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def state(step: int) -> dict:
    return {
        "step": np.int32(step),
        "params": {"a": {"kernel": KERNEL + step}, "b": np.float32(step)},
        "batch_stats": {"a": {"mean": np.zeros(3, np.float32)}},
        "ema_params": {"a": {"kernel": KERNEL}, "b": np.float32(-1)},
        "ema_batch_stats": {"a": {"mean": np.ones(3, np.float32)}},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run folder with checkpoints of steps 2 and 4, to be copied."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    with Checkpoints(folder / "checkpoints", keep=3) as checkpoints:
        for step in (2, 4):
            checkpoints.save(step, state(step))
    counts = {"num_train": 8, "num_eval": 2, "steps": 4}
    sessions = (Session("2026-01-01 00:00:00", "1 x cpu", 1, {}, "0"),)
    spec = PreprocessSpec(image_shape=(8, 8, 1))
    record = RunRecord(
        replace(CONFIG, workdir=folder), spec, ("x", "y"), **counts, sessions=sessions
    )
    write_record(folder, record)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "a"))


@pytest.fixture
def ckpt(capsys):
    """Run `inception-jax ckpt ARGUMENTS`; return exit status, standard output and error."""

    def ckpt(*arguments: object) -> tuple[int, str, str]:
        try:
            cli.main(["ckpt", *map(str, arguments)])
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return ckpt


def damage(run: Path, step: int) -> None:
    (run / "checkpoints" / str(step) / "state" / "manifest.ocdbt").write_bytes(b"")


def test_ls(ckpt, run):
    (run / "checkpoints" / "7").mkdir()
    (run / "quarantine" / "5").mkdir(parents=True)
    status, output, errors = ckpt("ls", run)
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert " ".join(lines[0].split()) == "step written arrays bytes bytes on disk digest"
    rows = [line.split() for line in lines[2:5]]
    assert [row[0] for row in rows] == ["2", "4", "7"]
    # A step, two kernels, two scalars and two means; four bytes per number.
    assert [row[3:5] for row in rows] == [["7", "84"], ["7", "84"], ["-", "-"]]
    assert [row[-1] for row in rows[:2]] == [tree_digest(state(s))[:16] for s in (2, 4)]
    assert rows[2][-1] == "damaged"
    assert lines[-1].endswith("quarantine: 5")


def test_verify(ckpt, run):
    status, output, errors = ckpt("verify", run)
    assert (status, errors) == (0, "")
    assert [line.split(",")[:3] for line in output.splitlines()] == [
        [f"step {step}: intact", " 7 arrays", " 84 bytes"] for step in (2, 4)
    ]
    damage(run, 2)
    status, output, errors = ckpt("verify", run)
    assert (status, errors) == (1, "")
    bad, good = output.splitlines()
    assert bad.startswith(f"step 2: DAMAGED. {run / 'checkpoints' / '2'} is damaged: ")
    assert good.startswith("step 4: intact")
    assert ckpt("verify", run, "--step", 4)[0] == 0
    assert ckpt("verify", run, "--step", 2)[0] == 1


def test_diff(ckpt, run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "b"))
    status, output, errors = ckpt("diff", run, other)
    assert (status, errors) == (0, "")
    assert output.splitlines()[-1] == "identical"

    status, output, errors = ckpt("diff", run, run, "--steps", 2, 4)
    assert (status, errors) == (1, "")
    assert output.splitlines()[:2] == [f"{run}: step {s}, 7 arrays" for s in (2, 4)]
    rows = [line.split() for line in output.splitlines()[5:]]
    # Step 2 is half of step 4, and so is the first entry of the kernel.
    assert rows == [["params", "2", "2", "2", "0.5"], ["step", "1", "1", "2", "0.5"]]


def test_diff_of_non_finite_numbers_and_different_arrays(ckpt, tmp_path):
    odd = np.array([np.nan, np.inf, 0.0, 1.0], np.float32)
    sides = [
        {"x": odd, "y": odd},
        {"x": odd * np.array([1, 1, -1, 1], np.float32), "y": -odd},
    ]
    sides[0] |= {"z": np.zeros(2), "u": np.zeros(1)}
    sides[1] |= {"z": np.zeros(3), "v": np.zeros(1)}
    for name, side in zip("ab", sides, strict=True):
        with Checkpoints(tmp_path / name / "checkpoints", keep=1) as checkpoints:
            checkpoints.save(1, side)
    status, output, errors = ckpt("diff", tmp_path / "a", tmp_path / "b")
    assert (status, errors) == (1, "")
    *rows, _, last = output.splitlines()[5:]
    assert sorted(row.split() for row in rows) == [
        *(["u", "1", "1", "-", "-"], ["v", "1", "1", "-", "-"]),
        *(["x", "1", "1", "0", "0"], ["y", "1", "1", "inf", "inf"]),
        ["z", "1", "1", "-", "-"],
    ]
    assert last == "missing in one, or of different shape or type: u, z, v"


@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_export(ckpt, run, tmp_path, weights):
    out = tmp_path / "weights.npz"
    status, output, errors = ckpt("export", run, "--out", out, "--weights", weights)
    assert (status, errors) == (0, "")
    assert output == f"Wrote 10 numbers in 3 arrays, of step 4, to {out}.\n"
    assert [path.name for path in tmp_path.glob("weights*")] == ["weights.npz"]
    prefix = {"raw": "", "ema": "ema_"}[weights]
    with np.load(out, allow_pickle=False) as file:
        names = ["params/a/kernel", "params/b", "batch_stats/a/mean"]
        assert sorted(file) == sorted([*names, "model.json", "run.json"])
        for name in names:
            expected = state(4)
            for key in f"{prefix}{name}".split("/"):
                expected = expected[key]
            np.testing.assert_array_equal(file[name], expected)
            assert file[name].dtype == np.float32
        about, card = (json.loads(str(file[x])) for x in ("run.json", "model.json"))
    assert (about.pop("step"), about.pop("weights")) == (4, weights)
    record = json.loads(json.dumps(dataclasses.asdict(read_record(run)), default=str))
    assert about == record
    assert (card["origin"]["step"], card["origin"]["weights"]) == (4, weights)
    assert (card["network"], card["class_names"]) == ("tiny", ["x", "y"])


def test_a_file_is_never_overwritten_or_incomplete(ckpt, run, tmp_path, monkeypatch):
    out = tmp_path / "weights.npz"
    out.write_text("mine")
    status, _, errors = ckpt("export", run, "--out", out)
    assert (status, out.read_text()) == (2, "mine")
    assert errors == (
        f"inception-jax: {out} already exists; remove it or choose another.\n"
    )
    out.unlink()

    def savez(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    status, _, errors = ckpt("export", run, "--out", out)
    assert status == 74
    assert errors == f"inception-jax: {out} cannot be written: No space left on device.\n"
    assert not list(tmp_path.glob("weights*"))


def test_the_newest_good_one_is_taken_and_the_damaged_one_named(ckpt, run, tmp_path):
    damage(run, 4)
    status, output, errors = ckpt("export", run, "--out", tmp_path / "weights.npz")
    assert status == 0
    assert "of step 2" in output
    assert "checkpoints/4 is damaged" in errors
    assert (run / "checkpoints" / "4").is_dir()
    # Not where that one was asked for, and not where none is good.
    for step in (["--step", "4"], []):
        status, output, errors = ckpt("export", run, "--out", tmp_path / "x.npz", *step)
        assert (status, output) == (74, "")
        assert "is damaged" in errors
        damage(run, 2)
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["ls", "RUN/none"], "holds no checkpoint: there is none in"),
        (["verify", "RUN", "--step", "3"], "no checkpoint of step 3; there are: 2, 4."),
        (["diff", "RUN", "RUN", "--steps", "2", "3"], "no checkpoint of step 3"),
        (["export", "RUN", "--out", "RUN/x.npy"], "--out needs a .npz file"),
        (["export", "RUN", "--out", "RUN/no/x.npz"], "in an existing folder"),
        (["export", "RUN/checkpoints", "--out", "RUN/x.npz"], "is not a run folder"),
    ],
)
def test_invalid_input_is_one_line(ckpt, run, arguments, part):
    status, _, errors = ckpt(*(a.replace("RUN", str(run)) for a in arguments))
    assert status == 2
    assert errors.startswith("inception-jax: ")
    assert errors.count("\n") == 1
    assert part in errors
    assert not list(run.glob("x*"))


def test_help(ckpt):
    status, output, errors = ckpt("--help")
    assert (status, errors) == (0, "")
    assert output.startswith("usage: inception-jax ckpt [-h] {ls,verify,diff,export}")
