# SPDX-License-Identifier: Apache-2.0
"""A folder of images is read, or a one-sentence error says what is wrong with it."""

import io
import os
import random
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from inception_jax.data.decoding import UnreadableImage, decode
from inception_jax.data.open_source import open_source
from inception_jax.data.source import Source


def png(level: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("L", (3, 2), level).save(file, "PNG")
    return file.getvalue()


def write(root: Path, *paths: str) -> None:
    for i, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i % 256))


def open_folder(root: Path, split: str) -> Source:
    return open_source(f"folder:{root}", split)


def names(source: Source) -> list[str]:
    return [example["name"] for example in source.examples]


def error_of(root: Path | str, split: str = "train") -> str:
    with pytest.raises(ValueError, match=r".") as e:
        open_source(f"folder:{root}", split)
    message = str(e.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


@pytest.fixture
def both(tmp_path) -> Path:
    """A folder with splits: two classes in train, one of them in val."""
    write(
        tmp_path, "train/b/1.png", "train/a/2.JPEG", "train/a/deep/er/0.png", "val/b/x.png"
    )
    return tmp_path


# Valid folders


def test_splits_of_classes(both):
    train = open_folder(both, "train")
    assert train.class_names == ("a", "b")
    assert names(train) == ["a/2.JPEG", "a/deep/er/0.png", "b/1.png"]
    assert [example["label"] for example in train.examples] == [0, 0, 1]
    assert len(train) == 3
    assert (train.name, train.split) == (f"folder:{both}", "train")
    assert "b/1.png" not in repr(train)
    pixels = [decode(e["image"], e["name"], 1)[0, 0, 0] for e in train.examples]
    assert pixels == [1, 2, 0]
    assert train.examples[-1]["name"] == "b/1.png"
    with pytest.raises(IndexError):
        train.examples[3]
    for split in ("eval", "val"):
        held_out = open_folder(both, split)
        assert held_out.class_names == ("a", "b"), "the classes are those of train"
        assert names(held_out) == ["b/x.png"]
        assert held_out.examples[0]["label"] == 1


def test_eval_is_the_first_of_val_validation_and_test(both):
    write(both, "test/a/t.png", "validation/a/v.png")
    assert names(open_folder(both, "eval")) == ["b/x.png"]
    assert names(open_folder(both, "test")) == ["a/t.png"]
    (both / "val/b/x.png").unlink()
    (both / "val/b").rmdir()
    (both / "val").rmdir()
    assert names(open_folder(both, "eval")) == ["a/v.png"]


def many(classes: int = 4, images: int = 50) -> list[str]:
    return [f"c{i}/{j:03}.png" for i in range(classes) for j in range(images)]


@pytest.mark.parametrize("train", ["", "train/"])
def test_a_tenth_is_held_out_without_a_folder(tmp_path, train):
    write(tmp_path, *(train + path for path in many()))
    split = {kind: names(open_folder(tmp_path, kind)) for kind in ("train", "eval")}
    assert sorted(split["train"] + split["eval"]) == many()
    assert 10 <= len(split["eval"]) <= 30
    for paths in split.values():
        assert {path[:2] for path in paths} == {"c0", "c1", "c2", "c3"}
    # Existing images stay in their splits.
    more = [f"c{i}/more{j}.png" for i in range(5) for j in range(20)]
    write(tmp_path, *(train + path for path in more))
    for kind, paths in split.items():
        assert set(names(open_folder(tmp_path, kind))) & set(many()) == set(paths)
        (labels,) = {len(open_folder(tmp_path, kind).class_names)}
        assert labels == 5


def test_held_out_images_are_those_of_earlier_runs(tmp_path):
    # If this fails, existing models would be tested on images they were trained on.
    write(tmp_path, *many(2, 20))
    assert names(open_folder(tmp_path, "eval")) == [
        "c0/002.png",
        "c1/007.png",
        "c1/013.png",
    ]


def test_no_class_is_held_out_completely(tmp_path):
    paths = [f"c{i:03}/only.png" for i in range(60)] + [f"many/{i}.png" for i in range(99)]
    write(tmp_path, *paths)
    assert len(set(labels(open_folder(tmp_path, "train")))) == 61
    assert {name[:4] for name in names(open_folder(tmp_path, "eval"))} == {"many"}


def labels(source: Source) -> list[int]:
    return [example["label"] for example in source.examples]


def test_a_part_is_random(tmp_path):
    write(tmp_path, *many())
    whole, part = open_folder(tmp_path, "train"), open_folder(tmp_path, "train[:40]")
    assert len(part) == 40
    assert set(labels(part)) == {0, 1, 2, 3}, "not the first class only"
    assert [name for name in names(whole) if name in names(part)] == names(part)
    rest = open_folder(tmp_path, "train[40:]")
    assert sorted(names(part) + names(rest)) == names(whole)
    assert len(open_folder(tmp_path, "train[25%:50%]")) == round(len(whole) / 2) - round(
        len(whole) / 4
    )
    assert len(open_folder(tmp_path, "train[-3:]")) == 3


def test_extensions_and_hidden_files(tmp_path):
    train = tmp_path / "train"
    write(train, "a/1.PnG", "a/2.jpg", "a/.hidden.png", "a/._2.jpg", "a/notes.txt", "a/png")
    write(train, "a/Thumbs.db", "a/.cache/3.png", "b/1.webp", ".git/4.png", "README.md")
    write(train, "loose.png", "b/folder.png/5.tiff", "../val/a/v.png")
    paths = names(open_folder(tmp_path, "train"))
    assert sorted(paths) == ["a/1.PnG", "a/2.jpg", "b/1.webp", "b/folder.png/5.tiff"]


def test_links_are_followed_without_loops(both, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, "photo.png", "folder/other.png")
    (both / "train/a/link.png").symlink_to(elsewhere / "photo.png")
    (both / "train/c").symlink_to(elsewhere / "folder")
    for loop, target in (("a/up", ".."), ("b/me", "me"), ("a/deep/a", "../../a")):
        (both / "train" / loop).symlink_to(target)
    (both / "train/b/gone.png").symlink_to(elsewhere / "gone.png")
    os.mkfifo(both / "train/b/pipe.png")
    train = open_folder(both, "train")
    assert train.class_names == ("a", "b", "c")
    paths = names(train)
    assert {"a/2.JPEG", "a/link.png", "b/1.png", "c/other.png"} < set(paths)
    assert not {"b/gone.png", "b/pipe.png"} & set(paths)
    assert len(paths) < 15, "every folder is visited once in a class"
    assert paths == sorted(paths)
    assert names(open_folder(both, "train")) == paths


def test_home_directory(both, monkeypatch):
    monkeypatch.setenv("HOME", str(both.parent))
    assert len(open_source(f"folder:~/{both.name}", "train")) == 3


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, *(f"{kind}/{i}.png" for kind in ("train", "plane") for i in range(30)))
    assert open_folder(tmp_path, "train").class_names == ("plane", "train")


def test_file_that_cannot_be_opened_names_itself(both):
    train = open_folder(both, "train")
    (both / "train/a/2.JPEG").unlink()
    with pytest.raises(UnreadableImage, match=r"/a/2.JPEG' cannot be read: No such file"):
        train.examples[0]


# Invalid folders


def test_missing_folder(tmp_path):
    assert "gone' does not exist; expected a folder" in error_of(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    assert "file' is not a folder; expected a folder" in error_of(tmp_path / "file")
    assert error_of("") == "'folder:' names no folder; expected folder:DIR."
    assert "~nobody-by-this-name" in error_of("~nobody-by-this-name/x")


def test_too_few_classes(tmp_path):
    assert "contains no folders; expected one folder for each of at least two" in error_of(
        tmp_path
    )
    write(tmp_path, "cat/1.png", "loose.png")
    assert "contains only one folder, 'cat'; expected one folder for each" in error_of(
        tmp_path
    )


def test_folders_without_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("")
    message = error_of(tmp_path)
    assert "contains no images in folders of classes; 2 files have other ext" in message
    write(tmp_path, "b/1.png")
    message = error_of(tmp_path)
    assert f"{str(tmp_path)!r} contains no images of 'a'; add images or remove" in message
    for i in range(5):
        (tmp_path / f"c{i}").mkdir()
    assert "no images of 'a', 'c0', 'c1' and 3 more;" in error_of(tmp_path, "eval")


def test_classes_that_are_not_in_train(both):
    write(both, "val/z/1.png", "val/y/1.png")
    message = error_of(both, "eval")
    folder = str(both / "val")
    assert f"{folder!r} contains classes that are not in train: 'y', 'z'." in message
    assert len(open_folder(both, "train")) == 3


def test_validation_images_without_classes(both):
    (both / "val/b/x.png").rename(both / "val/x.png")
    assert "/val' contains no images in folders of classes" in error_of(both, "eval")


def test_splits_without_classes(tmp_path):
    write(tmp_path, "train/1.png", "val/2.png")
    assert "contains train, val, but no folders of classes in train" in error_of(tmp_path)
    (tmp_path / "train/1.png").unlink()
    (tmp_path / "train").rmdir()
    write(tmp_path, "test/a/1.png")
    assert "contains test, val, but no folders of classes in train" in error_of(
        tmp_path, "eval"
    )


def test_nothing_held_out(tmp_path):
    write(tmp_path, "a/1.png", "b/2.png")
    assert len(open_folder(tmp_path, "train")) == 2
    message = error_of(tmp_path, "eval")
    assert "has only 2 images, too few to hold some out for eval; put them" in message
    folders = (str(tmp_path / part / "CLASS") for part in ("train", "val"))
    assert " and ".join(map(repr, folders)) in message


def test_unknown_splits(both):
    message = error_of(both, "test")
    assert message.startswith("unknown split 'test'; expected train, eval, val or a part")
    for split in (
        "",
        "train[",
        "train[1]",
        "train[::2]",
        "train[a:]",
        "Train",
        "train+eval",
    ):
        assert f"unknown split {split!r}" in error_of(both, split)
    assert error_of(both, "train[3:]") == "the part [3:] of 3 examples is empty."
    assert error_of(both, "train[:0%]") == "the part [:0%] of 3 examples is empty."


def test_unreadable_folder(both, monkeypatch):
    def scandir(path, scandir=os.scandir):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert error_of(both) == f"{str(both / 'train/b')!r} cannot be read: Permission denied."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission(both):
    file = both / "train/a/2.JPEG"
    file.chmod(0)
    with pytest.raises(UnreadableImage, match="cannot be read: Permission denied"):
        open_folder(both, "train").examples[0]
    (both / "train/b").chmod(0)
    assert "train/b' cannot be read: Permission denied" in error_of(both)
    (both / "train/b").chmod(0o700)


# Generated folders

PARTS = [
    *("a", "B", "class 1", "train", "val", "test", "validation", "ä", "猫", "🐈", "é"),
    *("...", ".hid", "-", "a.b", "x.png", "%s", "{}", "'", '"', "\n", "a\tb", "Ω" * 60),
    os.fsdecode(b"\xff\xfe"),
]
FILES = ["1.png", "2.JPG", "3.webp", ".h.png", "n.txt", "no", "🐈.png", "a b.gif", "\n.png"]


def tree(root: Path, chance: random.Random) -> None:
    with_splits, sparse = chance.random() < 0.5, chance.random() < 0.5
    for _ in range(chance.choice([0, 1, 3, 8, 30])):
        parts = chance.choices(PARTS, k=chance.choice([0, 1, 1, 1, 2, 3]))
        if with_splits:
            parts = [chance.choice(["train", "train", "train", "val"]), *parts]
        folder = root.joinpath(*parts)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in chance.sample(FILES, chance.choice([0, 1] if sparse else [4, 9])):
                (folder / name).write_bytes(chance.choice([b"", b"junk", png(9)]))
            if chance.random() < 0.2:
                target = chance.choice([".", "..", "nowhere", str(root)])
                (folder / chance.choice(PARTS)).symlink_to(target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            pass


def test_any_folder_opens_or_gives_a_one_sentence_error(tmp_path):
    opened, errors = 0, set()
    for seed in range(250):
        root = tmp_path / str(seed)
        root.mkdir()
        chance = random.Random(seed)
        tree(root, chance)
        split = chance.choice(["train", "eval", "val", "train[:50%]", "eval[1:]"])
        try:
            source = open_folder(root, split)
        except ValueError as e:
            errors.add(re.sub(r"'.*'|\d+", "", str(e))[:25])
            sentence = str(e)
            assert sentence.endswith("."), sentence
            assert "\n" not in sentence, sentence
            continue
        opened += 1
        assert list(source.class_names) == sorted(set(source.class_names))
        assert len(source) > 0
        for example in source.examples:
            top = example["name"].split("/")[0]
            assert source.class_names[example["label"]] == top
            assert isinstance(example["image"], bytes)
        assert len(set(names(source))) == len(source)
    assert opened > 20
    assert len(errors) >= 5, errors


def test_a_pickled_source_is_small(tmp_path):
    import pickle

    write(tmp_path, *many(2, 50))
    source = open_folder(tmp_path, "train")
    copy = pickle.loads(pickle.dumps(source))
    assert names(copy) == names(source)
    assert len(pickle.dumps(source)) < 4000
    assert isinstance(source.examples[0]["label"], int)
    assert np.ndim(source.examples[0]["label"]) == 0
