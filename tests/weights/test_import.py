# SPDX-License-Identifier: Apache-2.0
"""`weights import` converts files exactly, and rejects files that do not match."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import inception_jax
from inception_jax.cli import main as cli
from inception_jax.config import PreprocessSpec
from inception_jax.data.imagenet import imagenet_ids
from inception_jax.storage.digests import flatten_with_paths
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Card, Origin
from tests.weights import sources
from tests.weights.filled import filled
from tests.weights.sources import in_library, layout_of, save, with_background

NO_FILE = "is not a file or the prefix of a TensorFlow checkpoint"
CLOSEST = "these are not the arrays of a supported network; the closest is"


@pytest.fixture
def ours(monkeypatch, tmp_path: Path):
    """Return a function from a number of classes to the tiny network's arrays."""
    names = tmp_path / "names"
    names.mkdir()
    sources.install(monkeypatch, names)

    def ours(classes: int = 3, *, bn_scale: bool = True) -> dict[str, np.ndarray]:
        names = tuple(map(str, range(classes)))
        card = Card("tiny", PreprocessSpec((8, 8, 1)), names, Origin("", ""), bn_scale)
        return flatten_with_paths(filled(Model(card).shapes))

    return ours


@pytest.fixture
def command(capsys):
    """Run `weights import ARGUMENTS`; return exit status, output and errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        try:
            cli.main(["weights", "import", *map(str, arguments)])
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return command


def loaded(folder: Path) -> tuple[Card, dict[str, np.ndarray]]:
    model, variables = inception_jax.load(folder)
    return model.card, {
        name: np.asarray(x) for name, x in flatten_with_paths(variables).items()
    }


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(x, expected[name], strict=True, err_msg=name)


def test_a_file_becomes_a_model_folder(ours, command, tmp_path):
    arrays = ours()
    file = save(
        in_library("timm", arrays) | {"layers.0.bn.num_batches_tracked": np.array(7)},
        tmp_path / "x.safetensors",
    )
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    status, said, errors = command(file, "--out", tmp_path / "out", "--sha256", sha256)
    assert (status, errors) == (0, "")
    card, found = loaded(tmp_path / "out")
    assert_same(found, arrays)
    origin = Origin("timm", "x.safetensors", sha256)
    assert card == Card("tiny", sources.SPEC, ("0", "1", "2"), origin)
    count = sum(x.size for name, x in arrays.items() if name.startswith("params/"))
    assert said.splitlines()[1:5] == [
        "source     timm",
        "network    tiny",
        "arrays     19, each used once; 1 more in the file not used by the network",
        f"numbers    {count:,} parameters, 88 moving averages",
    ]
    assert "classes    3: 0 ... 2\n" in said
    assert said.endswith(f"\n\ninception-jax predict IMAGE --model {tmp_path}/out\n")


def test_the_models_folder_is_where_models_go(ours, command, tmp_path, monkeypatch):
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path / "models"))
    file = save(in_library("slim", ours(bn_scale=False)), tmp_path / "x")
    status, said, _ = command(file)
    assert status == 0
    assert said.endswith("\ninception-jax predict IMAGE --model tiny.slim\n")
    assert inception_jax.load("tiny.slim")[0].card.preprocess.aspect == "keep"
    status, _, errors = command(file)
    assert status == 2
    assert f"{tmp_path}/models/tiny.slim already exists" in errors


def test_1001_classes_are_1000_and_background(ours, command, tmp_path):
    arrays = ours(1000)
    command(save(in_library("timm", arrays), tmp_path / "a"), "--out", tmp_path / "1000")
    cadene = with_background(layout_of("cadene"), in_library("cadene", arrays))
    _, said, _ = command(save(cadene, tmp_path / "b"), "--out", tmp_path / "1001")
    assert "without the background class" in said
    (card, whole), (cut_card, cut) = loaded(tmp_path / "1000"), loaded(tmp_path / "1001")
    assert_same(cut, arrays)
    assert_same(whole, arrays)
    assert card.class_names == cut_card.class_names == imagenet_ids()
    assert not card.origin.background_removed
    assert cut_card.origin.background_removed
    assert (card.origin.source, cut_card.origin.source) == ("timm", "cadene")


def test_a_source_without_gamma_gives_a_network_without(ours, command, tmp_path):
    arrays = ours(1000, bn_scale=False)
    theirs = with_background(layout_of("slim"), in_library("slim", arrays))
    kernel = "Tiny/Conv2d_1a_3x3/weights"
    extras = {"global_step": np.array(3), f"{kernel}/RMSProp": np.zeros(2, np.float32)}
    _, said, _ = command(save(theirs | extras, tmp_path / "a"), "--out", tmp_path / "out")
    card, found = loaded(tmp_path / "out")
    assert_same(found, arrays)
    assert (card.bn_scale, card.origin.background_removed) == (False, True)
    assert "2 more in the file not used by the network" in said
    wrong = {f"{kernel}/RMSPropp": np.zeros(2, np.float32)}
    file = save(theirs | wrong, tmp_path / "b")
    status, _, errors = command(file, "--out", tmp_path / "wrong")
    assert status == 2
    assert errors == (
        f"inception-jax: {file}: {CLOSEST} slim's tiny; unexpected: {kernel}/RMSPropp.\n"
    )
    assert not (tmp_path / "wrong").exists()


def test_classes_are_named_by_a_file(ours, command, tmp_path):
    file = save(in_library("timm", ours()), tmp_path / "x")
    names = tmp_path / "names.txt"
    names.write_text("red\nlight green\nblue\n", encoding="utf-8")
    command(file, "--out", tmp_path / "out", "--classes", names)
    card, _ = loaded(tmp_path / "out")
    assert card.class_names == ("red", "light green", "blue")
    names.write_text("red\n")
    status, _, errors = command(file, "--out", tmp_path / "other", "--classes", names)
    assert status == 2
    assert "got 1 class names for 3 classes" in errors


def test_a_file_without_classifier_becomes_a_feature_extractor(ours, command, tmp_path):
    arrays = {n: x for n, x in ours(bn_scale=False).items() if "/Logits/" not in n}
    file = save(in_library("keras", arrays), tmp_path / "x")
    _, said, _ = command(file, "--out", tmp_path / "out")
    card, found = loaded(tmp_path / "out")
    assert card.class_names == ()
    assert_same(found, arrays)
    assert said.splitlines()[-1] == (
        f"inception-jax features IMAGE --model {tmp_path}/out --endpoint PreLogitsFlatten "
        "--out features.npz"
    )


def changed(theirs: dict[str, np.ndarray], change: str) -> dict[str, np.ndarray]:
    name = "layers.1.weight"
    theirs = {n: x.copy() for n, x in theirs.items()}
    if change == "renamed":
        theirs["layers.1.Weight"] = theirs.pop(name)
    elif change == "missing":
        del theirs[name]
    elif change == "extra":
        theirs["layers.9.weight"] = np.zeros(2, np.float32)
    elif change == "transposed":
        theirs[name] = np.ascontiguousarray(theirs[name].transpose(1, 0, 2, 3))
    elif change == "not a number":
        theirs[name][3, 1, 0, 1] = np.nan
    elif change == "float64":
        theirs[name] = theirs[name].astype(np.float64)
    elif change == "negative variance":
        theirs["layers.1.bn.running_var"][5] *= -1
    elif change == "classes":
        theirs["layers.4.bias"] = np.zeros((3, 1), np.float32)
    else:
        theirs["layers.4.bias"] = np.zeros(4, np.float32)
    return theirs


@pytest.mark.parametrize(
    ("change", "said"),
    {
        "renamed": f"{CLOSEST} timm's tiny; missing: layers.1.weight; "
        "unexpected: layers.1.Weight.",
        "missing": f"{CLOSEST} timm's tiny; missing: layers.1.weight.",
        "extra": f"{CLOSEST} timm's tiny; unexpected: layers.9.weight.",
        "transposed": "the arrays are not those of timm's tiny; wrong shape: "
        "layers.1.weight is [32, 8, 2, 2] instead of [8, 32, 2, 2].",
        "not a number": "NaN or infinite values in layers.1.weight.",
        "float64": "arrays must be float32; layers.1.weight is float64.",
        "negative variance": "negative variances in layers.1.bn.running_var.",
        "classes": "layers.4.bias has shape [3, 1]; expected one number for each class.",
        "other classes": "the arrays are not those of timm's tiny; wrong shape: "
        "layers.4.weight is [3, 8] instead of [4, 8].",
    }.items(),
)
def test_arrays_that_do_not_match_are_named(ours, command, tmp_path, change, said):
    file = save(changed(in_library("timm", ours()), change), tmp_path / "x")
    status, output, errors = command(file, "--out", tmp_path / "out")
    assert (status, output) == (2, "")
    assert errors == f"inception-jax: {file}: {said}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"names", "x"}


def test_the_closest_layout_is_named(command, tmp_path):
    """With the real table and a file of an unsupported network."""
    file = save({"features.0.conv.weight": np.zeros(1, np.float32)}, tmp_path / "x")
    status, _, errors = command(file, "--out", tmp_path / "out")
    assert status == 2
    assert f"{CLOSEST} timm's inception_v4; missing: features.0.bn.weight, " in errors
    assert errors.endswith(" and 741 more.\n")


def test_a_wrong_digest_is_rejected_before_the_file_is_read(ours, command, tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"no weights")
    status, _, errors = command(file, "--out", tmp_path / "out", "--sha256", "0" * 64)
    assert status == 2
    found = hashlib.sha256(b"no weights").hexdigest()
    assert errors == (
        f"inception-jax: the SHA-256 of {file} is {found}, expected {'0' * 64}.\n"
    )
    (tmp_path / "out").mkdir()
    status, _, errors = command(file, "--out", tmp_path / "out")
    assert (status, errors.split(" already exists")[0]) == (
        2,
        f"inception-jax: {tmp_path}/out",
    )
    status, _, errors = command(tmp_path / "y", "--out", tmp_path / "new")
    assert (status, errors) == (2, f"inception-jax: {tmp_path}/y {NO_FILE}.\n")
