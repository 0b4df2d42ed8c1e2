# SPDX-License-Identifier: Apache-2.0
"""Figures of the networks are complete, legible and agree with the networks."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from experiments.architecture import __main__ as command
from experiments.architecture import photo
from experiments.architecture.blocks import Residual, draw_block, layer_label
from experiments.architecture.charts import HATCHES, draw_cost, totals_by_part
from experiments.architecture.drawings import draw_comparison, draw_networks, summary_of
from inception_jax.config import PreprocessSpec
from inception_jax.models.inception_a import FIG_16
from inception_jax.models.inception_b import FIG_5
from inception_jax.models.inception_c import FIG_6
from inception_jax.models.layers import Branches
from inception_jax.models.reduction_b import FIG_18
from inception_jax.models.zoo import SPECS
from inception_jax.weights.model import Model, save
from inception_jax.weights.model_folder import Card, Origin
from tests.models.tiny import three_grids

SMALL = "inception_resnet_small"


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def boxes(axes: Axes) -> list[FancyBboxPatch]:
    return [patch for patch in axes.patches if isinstance(patch, FancyBboxPatch)]


def assert_legible(figure: Figure) -> None:
    """Every box contains its text, and boxes and texts do not overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        texts = [text for text in axes.texts if text.get_text()]
        places = [text.get_window_extent(renderer) for text in texts]
        frames = [box.get_window_extent(renderer) for box in boxes(axes)]
        for several in (places, frames):
            for i, one in enumerate(several):
                assert not any(one.overlaps(other) for other in several[:i]), texts
        for place, text in zip(places, texts, strict=True):
            around = [frame for frame in frames if frame.overlaps(place)]
            inside = [f for f in around if f.x0 <= place.x0 and place.x1 <= f.x1]
            assert around == inside, text.get_text()
            assert place.height > 8  # pixels at 100 an inch


def flat(branches: Branches) -> Iterator[object]:
    for layers in branches:
        for layer in layers:
            yield from layer if isinstance(layer, tuple) else (layer,)


@pytest.mark.parametrize("branches", [FIG_5, FIG_6, FIG_16, FIG_18])
def test_a_block_has_a_box_for_each_layer(branches):
    figure = Figure(figsize=(7 if branches is FIG_18 else 5, 5), layout="constrained")
    residual = Residual(320, 0.17, relu=False) if branches is FIG_16 else None
    draw_block(axes := figure.subplots(), "A block", branches, residual)
    ends = ["filter concatenation"]
    if residual:
        ends = ["1x1 Conv, linear (320)", "x 0.17", "+", "no ReLU"]
    assert sorted(words(axes)) == sorted(
        [*map(layer_label, flat(branches)), "input", *ends]
    )
    assert_legible(figure)


def test_layer_labels():
    labels = [layer_label(layer) for layer in flat(FIG_18)]
    assert labels[1] == "3x3 Conv\n(384, stride 2 V)"
    assert labels[-1] == "3x3 MaxPool\n(stride 2 V)"
    assert layer_label(FIG_5[1][1]) == "1x7 Conv\n(224)"


def test_boxes_of_a_network():
    figure = draw_networks([SMALL])
    assert words(figure.axes[0]) == [
        "Image\n8x8x1",
        "Stem, not in the paper\n4x4x256",
        "10 x Inception-ResNet-C, scale 0.1\n4x4x256 (Fig. 13, narrow)",
        "Average pool\n256",
        "Dropout\n(keep 1)",
        "Softmax\n10",
        SMALL,
    ]
    assert_legible(figure)


def test_two_networks_show_what_differs(monkeypatch):
    monkeypatch.setitem(SPECS, "three grids", three_grids())
    figure = draw_comparison(SMALL, "three grids")
    assert_legible(figure)
    labels = words(figure.axes[0])
    assert labels.count("only right") == 5  # A, B, the reductions, and the last C
    assert "10 x C: 4x4x256, 183,040, scale 0.1" in labels
    assert "blocks, shape, parameters, MACs, scale" in labels
    assert all(box.get_linewidth() > 2 for box in boxes(figure.axes[0]))
    alike = draw_comparison(SMALL, SMALL).axes[0]
    assert words(alike).count("the same") == len(boxes(alike)) / 2 == 5
    assert all(box.get_linewidth() < 1 for box in boxes(alike))


def test_the_costs_of_the_parts_add_up():
    summary = summary_of(SMALL)
    for what in ("params", "macs"):
        assert sum(totals_by_part(summary, what).values()) == getattr(summary, what)
    assert totals_by_part(summary, "params")["head"] == 2570  # 256 x 10 + 10
    bars = draw_cost([SMALL]).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(summary.params / 1e6)
    assert len(bars) == len(HATCHES)


def test_feature_maps_are_of_the_saved_model(monkeypatch, tmp_path):
    """The first model of the folder is used, else a random one."""
    monkeypatch.setitem(SPECS, "tiny", three_grids())
    monkeypatch.setattr(photo, "PIXELS", 32)
    monkeypatch.setenv("INCEPTION_JAX_MODELS", str(tmp_path))
    random = partial(photo.random_model, "tiny")
    monkeypatch.setattr(photo, "random_model", random)
    assert photo.local_or_random_model()[0].card.origin.source == "random"
    card = Card("tiny", PreprocessSpec((64, 64, 1)), ("a", "b"), Origin("timm", "x"))
    save(tmp_path / "one", card, photo.random_variables(Model(card)))
    model, variables = photo.local_or_random_model()
    assert model.card.origin.source == "timm"
    assert model.card.preprocess.image_shape == (32, 32, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 1), np.uint8)
    images = model.prepare([pixels])
    names = ["Conv2d_1a_3x3", "Conv2d_2a_2x2", "block35_1", "Mixed_6a", "block17_3"]
    maps = photo.endpoints_of(model, variables, images, names)
    assert list(maps) == names
    figure = photo.draw_feature_maps(model, images[0], maps)
    shapes = [axes.images[0].get_array().shape[:2] for axes in figure.axes]
    assert shapes == [(32, 32), (32, 32), (16, 16), (16, 16), (7, 7), (7, 7)]
    assert "Conv2d_1a_3x3" in words(figure.axes[0])
    assert "block17_3" not in words(figure.axes[0])  # its receptive field exceeds the photo
    streams = photo.draw_streams(model, variables, images, (0.0, 1.0)).axes[0].lines
    assert [len(line.get_xdata()) for line in streams] == [6, 6]
    assert not np.allclose(*(line.get_ydata() for line in streams))


@pytest.mark.slow
def test_the_command_writes_legible_figures(tmp_path, capsys):
    assert command.main(["--out", str(tmp_path / "new")]) == 0
    for name, draw in command.FIGURES.items():
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        if name in ("networks", "two_v2", "blocks"):
            assert_legible(draw())
    assert f"Wrote {tmp_path}" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["--out", str(tmp_path / "file" / "new")]) == 2
    assert "experiments.architecture: " in capsys.readouterr().err
