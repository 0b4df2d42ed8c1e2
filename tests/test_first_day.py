# SPDX-License-Identifier: Apache-2.0
"""The five commands of the README, from a published file to your own classes, work."""

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
# A quarter of the steps, at a higher learning rate.
QUICK = ["--epochs", "40", "--evaluations", "2", "--learning-rate", "0.1"]


def commands(marker: str) -> list[list[str]]:
    """Return the commands in the README's block after a marker."""
    (found,) = re.findall(rf"^<!-- {marker} -->\n```sh\n(.*?)^```", README, re.S | re.M)
    return [shlex.split(line, comments=True) for line in found.splitlines()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a new folder, with red and blue `photos`."""
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
    """Run the five commands, the fourth with `more` options; return the last output."""
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


def accuracy(said: str, classes: tuple[str, ...]) -> float:
    """Check the files; return the share of the 32 photos that the new model names right."""
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
    """With a network of one block in place of Inception-v4."""
    monkeypatch.setitem(SPECS, "tiny", one_block(image_shape=(16, 16, 3)))
    names = ("x", "y", "z")
    card = Card("tiny", PreprocessSpec((16, 16, 3)), names, Origin("timm", "file"))
    inputs = np.zeros((1, 16, 16, 3), np.float32)
    save(home / "made", card, random_variables(Model(card).network, inputs))
    main(["weights", "export", "made", "--format", "safetensors", "--out", FILE])
    assert accuracy(follow(capsys, more), names) > 0.9


@pytest.mark.slow
def test_five_commands_with_a_file_of_timm(home, capsys):
    """With timm's Inception-v4, fine-tuned briefly on small images.

    Its weights are random, so a new classifier cannot learn from its features.
    """
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from safetensors.torch import save_file

    save_file(timm.create_model("inception_v4").state_dict(), FILE)
    more = [*QUICK, "--image-size", "75", "--body-rate", "0"]
    assert 0 <= accuracy(follow(capsys, more), imagenet_ids()) <= 1
