# SPDX-License-Identifier: Apache-2.0
"""The README's five commands, from a published file to one's own classes, as printed."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

import inception_jax
from experiments import finetune
from inception_jax.cli.main import main
from inception_jax.config import PreprocessSpec
from inception_jax.data.imagenet import imagenet_ids
from inception_jax.models.zoo import SPECS
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Origin
from tests.models.tiny import one_block, random_variables

README = (Path(__file__).parents[1] / "README.md").read_text()
FILE = "model.safetensors"
# A quarter of the updates, further each.
QUICK = ["--epochs", "40", "--evaluations", "2", "--learning-rate", "0.1"]


def commands(marker: str) -> list[list[str]]:
    """The lines of the block of commands behind a marker."""
    (found,) = re.findall(rf"^<!-- {marker} -->\n```sh\n(.*?)^```", README, re.S | re.M)
    return [shlex.split(line, comments=True) for line in found.splitlines()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with `photos` of reds and blues."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for channel, name in ((0, "red"), (2, "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(16):
            pixels = rng.integers(0, 60, (90, 120, 3), np.uint8)
            pixels[..., channel] += 150
            path = tmp_path / "photos" / name / f"{name}{i}.jpg"
            path.write_bytes(simplejpeg.encode_jpeg(pixels))
    return tmp_path


def follow(capsys: pytest.CaptureFixture, more: list[str]) -> str:
    """Run the five, the fourth with `more` options; what the last writes."""
    install, *others = commands("first day")
    assert install == ["pip", "install", "-e", ".[train]"]
    assert [words[1:3] for words in others] == [
        ["weights", "import"],
        ["predict", "photos"],
        ["-m", "experiments.finetune"],
        ["predict", "photos"],
    ]
    for command in others:
        capsys.readouterr()
        if command[0] == "inception-jax":
            main(command[1:])
        else:
            assert finetune.main([*command[3:], *more]) == 0
    return capsys.readouterr().out


def share_right(said: str, classes: tuple[str, ...]) -> float:
    """Of the 32 photos, which the new model named all; every file is there."""
    assert inception_jax.load("models/v4")[0].card.class_names == classes
    model, _ = inception_jax.load("runs/finetune/model")
    assert model.card.class_names == ("blue", "red")
    assert Path("sheet.png").read_bytes()[1:4] == b"PNG"
    assert "<img" in Path("runs/finetune/report/index.html").read_text()
    assert len(re.findall(r"^photos/(?:red|blue)/\w+\.jpg", said, re.M)) == 32
    main(["predict", "photos", "--model", "runs/finetune/model", "--json", "out.json"])
    found = json.loads(Path("out.json").read_text())["images"]
    right = [Path(x["image"]).parent.name == x["predictions"][0]["class"] for x in found]
    return float(np.mean(right))


@pytest.mark.parametrize("more", [QUICK, pytest.param([], marks=pytest.mark.slow)])
def test_five_commands(home, monkeypatch, capsys, more):
    """With a file of a network of one block in place of Inception-v4's."""
    monkeypatch.setitem(SPECS, "tiny", one_block(image_shape=(16, 16, 3)))
    names = ("x", "y", "z")
    card = Card("tiny", PreprocessSpec((16, 16, 3)), names, Origin("timm", "file"))
    inputs = np.zeros((1, 16, 16, 3), np.float32)
    save(home / "made", card, random_variables(Model(card).network, inputs))
    main(["weights", "export", "made", "--format", "safetensors", "--out", FILE])
    assert share_right(follow(capsys, more), names) > 0.9


@pytest.mark.slow
def test_five_commands_with_a_file_of_timm(home, capsys):
    """Inception-v4 as timm writes it; fine-tuned for a moment, on small pictures. Its
    weights are random: there is nothing that a new classifier could learn from."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from safetensors.torch import save_file

    save_file(timm.create_model("inception_v4").state_dict(), FILE)
    more = [*QUICK, "--image-size", "75", "--body-rate", "0"]
    assert 0 <= share_right(follow(capsys, more), imagenet_ids()) <= 1
