# SPDX-License-Identifier: Apache-2.0
"""`inception-jax data check` reports what exists, what is missing and the next command."""

import functools
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from inception_jax.data import check_imagenet
from inception_jax.data.check import check
from inception_jax.text import format_bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(run_data):
    """`inception-jax data check ARGUMENTS`: status, standard output, standard error."""
    return functools.partial(run_data, "check")


@pytest.fixture
def copy(data_dir, tmp_path):
    """A copy of the tiny `imagenet2012` to damage: DATA_DIR and the version's folder."""
    folder = tmp_path / "imagenet2012"
    shutil.copytree(Path(data_dir) / "imagenet2012", folder)
    return str(tmp_path), folder / "5.1.0"


@pytest.fixture
def small_archives(monkeypatch):
    """Archives of a few bytes each instead of ImageNet's."""
    archives = (
        check_imagenet.Archive("train.tar", 5, "5d41402abc4b2a76b9719d911017c592"),  # hello
        check_imagenet.Archive("val.tar", 3, "202cb962ac59075b964b07152d234b70"),  # 123
    )
    monkeypatch.setattr(check_imagenet, "ARCHIVES", archives)
    return archives


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (1_560_000, "1.6 MB"),
        (154_642_401_280, "154.6 GB"),
        (2 * 10**12, "2.0 TB"),
    ],
)
def test_format_bytes(size, shown):
    assert format_bytes(size) == shown


def rows(output: str) -> list[tuple[str, str]]:
    """Return label and fact of each line of a report."""
    lines = output.split("\n\n")[1].splitlines()
    width = max(re.match(r"  \S+ +|   +", line).end() for line in lines)
    return [(line[:width].strip(), line[width:].strip()) for line in lines]


def test_digits_are_ready(run, data_dir):
    status, output, errors = run("digits", "--data-dir", data_dir, "--read", "all")
    assert (status, errors) == (0, "")
    assert output.startswith("digits: ready\n")
    assert "1,500 images; 1,500 read, all readable" in output
    assert "297 images; 297 read, all readable" in output
    assert "next:" not in output


def test_synthetic_is_ready(run):
    status, output, _ = run("synthetic:10x200", "--read", "3")
    assert status == 0
    assert output.splitlines() == [
        "synthetic:10x200: ready",
        "",
        "  classes  10: class 0, class 1, class 2, class 3, class 4 and 5 more",
        "  train    200 images; 3 read, all readable",
        "  eval     20 images; 3 read, all readable",
    ]


def test_a_prepared_data_set(run, data_dir):
    status, output, errors = run("imagenet2012", "--data-dir", data_dir)
    assert (status, errors) == (0, "")
    folder = Path(data_dir) / "imagenet2012" / "5.1.0"
    size = sum(file.stat().st_size for file in folder.glob("*-train.*"))
    assert f"  prepared    yes, {folder}\n" in output
    assert "  format      array_record\n" in output
    assert (
        "  train       24 images instead of 1,281,167; files: 1, "
        f"{size / 1000:.1f} kB\n" in output
    )
    assert "  validation  8 images instead of 50,000; files: 1, " in output
    assert "  classes     1,000: n01440764, n01443537, " in output
    assert "  train       24 images; 16 read, all readable\n" in output
    assert "  eval        8 images; 8 read, all readable\n" in output


def test_another_format_is_renamed_and_prepared_again(run, copy):
    data_dir, folder = copy
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    status, output, _ = run("imagenet2012", "--data-dir", data_dir)
    assert status == 1
    assert "tfrecord, which needs TensorFlow to read" in output
    assert f"next:\n  mv {folder} {folder}.tfrecord\n" in output
    assert output.rstrip().endswith(".download_and_prepare()'")


def test_a_missing_file(run, copy):
    data_dir, folder = copy
    next(folder.glob("*-train.*")).unlink()
    status, output, _ = run("imagenet2012", "--data-dir", data_dir)
    assert status == 1
    assert "instead of 1,281,167; files: 1, 1 MISSING, 0 bytes" in output
    assert f"  mv {folder} {folder}.incomplete\n" in output


def test_a_truncated_file(copy):
    data_dir, folder = copy
    file = next(folder.glob("*-train.*"))
    file.write_bytes(file.read_bytes()[:70_000])
    # In another process, because the run-time type checks of this one read an example.
    command = [sys.executable, "-m", "inception_jax", "data", "check", "imagenet2012"]
    result = subprocess.run(
        [*command, "--data-dir", data_dir], capture_output=True, text=True, cwd=ROOT
    )
    assert (result.returncode, result.stderr) == (1, "")
    output = result.stdout
    assert "24 images; 16 read, 16 UNREADABLE" in output
    assert output.count("hash mismatch") == 1, "each message is listed once"
    assert "8 images; 8 read, all readable" in output


def test_missing_archives_and_wrong_sizes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 0, 9)
    )
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_train.tar").write_bytes(b"12345")
    status, output, errors = run("imagenet2012", "--data-dir", str(tmp_path))
    assert (status, errors) == (1, "")
    assert rows(output) == [
        ("prepared", f"no, {tmp_path / 'imagenet2012' / '5.1.0'} does not exist"),
        ("archives", str(manual)),
        (
            "",
            "ILSVRC2012_img_train.tar: WRONG SIZE, 5 bytes instead of 147,897,477,120",
        ),
        ("", "ILSVRC2012_img_val.tar: MISSING, 6,744,924,160 bytes"),
        # Both archives, and a copy of the same size.
        ("free disk", "9 bytes, 309.3 GB TOO LITTLE"),
        (
            "needed",
            "309.3 GB: 154.6 GB for the missing archives, 154.6 GB for the prepared copy",
        ),
    ]
    assert f"next:\n  mkdir -p {manual}\n" in output
    assert (
        "  # download ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
        "https://image-net.org/download-images into this folder, then:\n" in output
    )


def test_archives_of_the_correct_size(run, tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for archive in check_imagenet.ARCHIVES:
        with (manual / archive.file).open("wb") as file:
            file.truncate(archive.size)  # sparse: occupies no disk space
    status, output, _ = run("imagenet2012", "--data-dir", str(tmp_path))
    assert status == 1
    assert "ILSVRC2012_img_train.tar: size correct, 147,897,477,120 bytes" in output
    assert "ILSVRC2012_img_val.tar: size correct, 6,744,924,160 bytes" in output
    assert dict(rows(output))["needed"].startswith(
        "154.6 GB: 154.6 GB for the prepared copy"
    )
    assert "mkdir" not in output


def test_md5(run, small_archives, tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "train.tar").write_bytes(b"hello")
    (manual / "val.tar").write_bytes(b"124")
    arguments = ("imagenet2012", "--data-dir", str(tmp_path))
    assert "val.tar: size correct, 3 bytes" in run(*arguments)[1]
    _, output, _ = run(*arguments, "--md5")
    assert "train.tar: MD5 correct, 5 bytes" in output
    assert (
        "val.tar: WRONG MD5, c8ffe9a587b126f152ed3d89a146b445 instead of "
        "202cb962ac59075b964b07152d234b70" in output
    )
    assert "# download val.tar from " in output


def test_progress_of_md5(small_archives, tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "train.tar").write_bytes(b"hello")
    seen = []
    check(
        "imagenet2012",
        str(tmp_path),
        md5=True,
        progress=lambda *counts: seen.append(counts),
    )
    assert seen == [(5, 5)]


@pytest.mark.parametrize(
    ("name", "download"),
    [
        ("cifar10", "170.1 MB"),  # TFDS: url_checksums/cifar10.txt
        ("imagenette", "from 98.8 MB to 1.6 GB, depending on the configuration"),
    ],
)
def test_download_sizes(run, tmp_path, name, download):
    status, output, errors = run(name, "--data-dir", str(tmp_path))
    assert (status, errors) == (1, "")
    facts = dict(rows(output))
    assert facts["download"] == download
    assert facts["prepared"].endswith("does not exist")
    assert re.fullmatch(r"[\d.]+ [kMGT]B", facts["free disk"])
    assert f'tfds.builder("{name}", data_dir="{tmp_path}", ' in output
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_manual_downloads(run, tmp_path):
    _, output, _ = run("celeb_a_hq/64", "--data-dir", str(tmp_path))
    assert "manual_dir should contain multiple tar files" in dict(rows(output))["manual"]
    assert f"  mkdir -p {tmp_path / 'downloads' / 'manual'}\n" in output
    assert "download" not in dict(rows(output))


def test_leftovers_of_an_interrupted_preparation(run, tmp_path):
    left = tmp_path / "cifar10" / "incomplete.ABCDEF_3.0.2"
    left.mkdir(parents=True)
    _, output, _ = run("cifar10", "--data-dir", str(tmp_path))
    assert f"{left.name}: left by an interrupted preparation, remove it" in output


@pytest.mark.parametrize("installed", [True, False])
def test_the_command_depends_on_tensorflow(run, tmp_path, monkeypatch, installed):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: installed if name == "tensorflow" else find(name, *rest),
    )
    strange = tmp_path / 'a "b" $c'
    _, output, _ = run("cifar10", "--data-dir", str(strange))
    *setup, command = output.split("next:\n")[1].splitlines()
    if installed:
        assert not setup
    else:
        assert [line.split()[0] for line in setup[1:]] == ["python", "tfds_env/bin/pip"]
    # The shell passes valid Python with the unchanged folder.
    program = subprocess.run(
        command.replace("tfds_env/bin/", "").replace("python -c", "printf %s"),
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    compile(program, "command", "exec")
    assert repr(str(strange)) in repr(program) or json.dumps(str(strange)) in program
    assert 'file_format="array_record"' in program


@pytest.fixture
def folder(tmp_path):
    """Return a folder of two classes with nine and twelve JPEG files."""
    rng = np.random.default_rng(0)
    for name, size in (("cat", 9), ("dog", 12)):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(size):
            data = simplejpeg.encode_jpeg(rng.integers(0, 256, (8, 9, 3), np.uint8))
            (tmp_path / "train" / name / f"{i}.jpg").write_bytes(data)
        (tmp_path / "val" / name / "0.jpg").write_bytes(data)
    return tmp_path


def test_a_folder(run, folder):
    status, output, _ = run(f"folder:{folder}")
    assert status == 0
    assert rows(output) == [
        ("classes", "2: cat, dog"),
        ("train", "21 images; 16 read, all readable"),
        ("eval", "2 images; 2 read, all readable"),
    ]


def test_unreadable_images_are_listed(run, folder):
    (folder / "train" / "cat" / "3.jpg").write_bytes(b"")
    (folder / "train" / "dog" / "4.jpg").write_bytes(b"no image")
    status, output, _ = run(f"folder:{folder}", "--read", "all")
    assert status == 1
    facts = rows(output)
    assert facts[1] == ("train", "21 images; 21 read, 2 UNREADABLE")
    assert facts[2] == ("", "'cat/3.jpg' cannot be read: the file is empty.")
    assert facts[3][1].startswith("'dog/4.jpg' cannot be read: it starts with b'no image'")
    assert facts[4] == ("eval", "2 images; 2 read, all readable")
    assert output.endswith(
        "next:\n  # repair or remove them, or train with --on-bad-image skip\n"
    )
    assert run(f"folder:{folder}", "--read", "0")[0] == 0


def test_at_most_twenty_unreadable_images_are_listed(run, folder):
    for file in folder.glob("train/*/*.jpg"):
        file.write_bytes(b"")
    _, output, _ = run(f"folder:{folder}", "--read", "all")
    assert output.count("the file is empty") == 20
    assert "  and 1 more\n" in output


def test_a_folder_with_one_class(run, folder):
    shutil.rmtree(folder / "train" / "cat")
    status, output, _ = run(f"folder:{folder}")
    assert status == 1
    assert output.startswith(f"folder:{folder}: not ready\n")
    assert "PROBLEM: " in output
    assert "only one folder, 'dog'" in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("folder:/no/such", "folder '/no/such' does not exist; expected folder:DIR."),
        ("synthetic:1x1", "unknown source 'synthetic:1x1'"),
        ("imagnet2012", "did you mean 'imagenet2012'"),
        ("imagenet2012:7.0.0", "cannot be loaded at version 7.0.0, only: 5.1.0, 5.0.0."),
        ("a/b/c/d", "TFDS cannot open 'a/b/c/d': "),
        ("imagenet2012 --data-dir gs://x/y", "must be a local folder"),
        ("digits --read -1", "read must be 0 or more images, or all, got -1."),
    ],
)
def test_wrong_input_is_one_line(run, tmp_path, arguments, part):
    status, output, errors = run("--data-dir", str(tmp_path), *arguments.split())
    assert (status, output) == (2, "")
    assert errors.startswith("inception-jax: ")
    assert errors.count("\n") == 1
    assert part in errors


def test_help(run):
    status, output, _ = run("--help")
    assert status == 0
    assert output.startswith("usage: inception-jax data check [-h] NAME ")
    assert "0 if ready, 1 if not, 2 if NAME is invalid" in output


def test_a_prepared_data_set_is_read_without_tensorflow(data_dir):
    program = (
        "import sys; from inception_jax.cli.main import main\n"
        f"main(['data', 'check', 'imagenet2012', '--data-dir', {data_dir!r}])\n"
        "assert 'tensorflow' not in sys.modules"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("imagenet2012: ready\n")
