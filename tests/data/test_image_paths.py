# SPDX-License-Identifier: Apache-2.0
"""Names on a command line are expanded to paths of images."""

import os
import re
from pathlib import Path

import pytest

from inception_jax.data.image_paths import expand_image_paths


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with images at several depths among other files."""
    monkeypatch.chdir(tmp_path)
    for path in (
        *("b.jpg", "a.PNG", "notes.txt", ".hidden.png"),
        *("deep/c.jpeg", "deep/er/d.webp", "deep/.git/e.png", "other/f.txt", "g[1].jpg"),
    ):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["."], ["a.PNG", "b.jpg", "deep/c.jpeg", "deep/er/d.webp", "g[1].jpg"]),
        (["deep"], ["deep/c.jpeg", "deep/er/d.webp"]),
        # An existing name is not a pattern, and a file may have any extension.
        (["g[1].jpg", "notes.txt"], ["g[1].jpg", "notes.txt"]),
        # In the order of the names, without repetition.
        (["b.jpg", "deep/er", "./b.jpg", "a.PNG"], ["b.jpg", "deep/er/d.webp", "a.PNG"]),
        (["*"], ["a.PNG", "b.jpg", "deep/c.jpeg", "deep/er/d.webp", "g[1].jpg"]),
        (["**/*.jp*g"], ["b.jpg", "deep/c.jpeg", "g[1].jpg"]),
        (["[ab].*"], ["a.PNG", "b.jpg"]),
        (["d*"], ["deep/c.jpeg", "deep/er/d.webp"]),
    ],
)
def test_names_stand_for_images(folder, names, expected):
    assert expand_image_paths(names) == expected
    outside = expand_image_paths([str(folder / name) for name in names])
    assert outside == [str(folder / path) for path in expected]


def test_home_and_links(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "deep"))
    assert expand_image_paths(["~/er"]) == [str(folder / "deep" / "er" / "d.webp")]
    assert expand_image_paths(["~/*.jpeg"]) == [str(folder / "deep" / "c.jpeg")]
    (folder / "deep" / "er" / "loop").symlink_to(folder / "deep")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    assert expand_image_paths(["deep"]) == ["deep/c.jpeg", "deep/er/d.webp"]
    assert expand_image_paths(["gone.png"]) == ["gone.png"]  # an error is raised later
    with pytest.raises(ValueError, match="'~no one/x' does not exist"):
        expand_image_paths(["~no one/x"])


def test_names_of_any_bytes(folder):
    name = os.fsdecode(b"\xff.png")
    (folder / "deep" / name).write_bytes(b"")
    assert expand_image_paths(["deep/er", "deep"])[-1] == f"deep/{name}"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images specified; expected files, folders or patterns"),
        (["b.jpg", "c.jpg"], "'c.jpg' does not exist; expected an image"),
        (["b.jpg", "other"], "'other' contains no images: none of its 1 files has"),
        (["b.jpg", "*.gif"], "no image matches '*.gif'; supported extensions are .apng"),
        (["*.txt"], "no image matches '*.txt'"),
    ],
)
def test_names_without_images_are_errors(folder, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        expand_image_paths(names)
