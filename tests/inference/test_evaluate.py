# SPDX-License-Identifier: Apache-2.0
"""Evaluation counts every image once, with equal results on 1, 2 and 4 devices."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import PreprocessSpec
from inception_jax.data.batches import eval_batches
from inception_jax.data.source import Source, Subset
from inception_jax.inference.batch_norm_modes import mode_gap, recalibrate_statistics
from inception_jax.inference.evaluate import (
    TrainedModel,
    check_compatible,
    evaluate,
    exclude_images,
    kinds_to_evaluate,
    view_probabilities,
)
from inception_jax.models.zoo import SPECS
from inception_jax.training.step import network_input
from inception_jax.weights.model import Model
from inception_jax.weights.model_folder import Card, Origin
from tests.models.tiny import one_block, random_variables

RNG = np.random.default_rng(0)
NAMES = tuple("abcdefg")
SPEC = PreprocessSpec((8, 8, 1))
EXAMPLES = [
    {
        "image": RNG.integers(0, 256, (9 + i % 4, 12 - i % 3, 1), np.uint8),
        "label": int(RNG.integers(7)),
        "name": f"images/ILSVRC2012_val_{i + 1:08d}.JPEG",
    }
    for i in range(103)
]


def source(count: int = 103) -> Source:
    return Source("somewhere", "eval", NAMES, EXAMPLES[:count])


CARD = Card("one", SPEC, NAMES, Origin("run", "runs/one", step=1), bn_scale=False)


@pytest.fixture(autouse=True)
def _one(monkeypatch):
    monkeypatch.setitem(SPECS, "one", one_block())


def model(seed: int = 0, **changes: object) -> TrainedModel:
    """Return random raw and averaged weights whose logits vary between images."""
    described = Model(replace(CARD, **changes))
    images = network_input({"image": jnp.zeros((1, 8, 8, 1), jnp.uint8)}, SPEC)
    raw = random_variables(described.network, images)
    kernel = np.random.default_rng(seed).normal(
        size=raw["params"]["Logits"]["kernel"].shape
    )
    raw["params"]["Logits"]["kernel"] = jnp.asarray(10 * kernel, jnp.float32)
    ema = jax.tree.map(lambda x: 0.7 * x, raw)
    return TrainedModel(described, {"raw": raw, "ema": ema})


def totals_of(models, count=103, views=1, devices=1, batch_size=8):
    totals, skipped = evaluate(
        models,
        source(count),
        views=views,
        batch_size=batch_size,
        devices=jax.devices()[:devices],
    )
    assert not skipped
    return totals


def assert_close(result, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), result, expected)


def by_hand(models, count: int, views: int, weights: str) -> dict[str, float]:
    """Return sums computed image by image from the mean softmax over models and views."""
    sums = dict.fromkeys(("count", "loss_sum", "top1_sum", "top5_sum"), 0.0)
    for batch in eval_batches(source(count), preprocess=SPEC, batch_size=1, views=views):
        images = batch["image"] if views == 1 else batch["image"][0]
        inputs = jnp.asarray(images.astype(np.float32) / 127.5 - 1)
        logits = [m.model.apply(m.variables[weights], inputs)[0] for m in models]
        mean = np.mean([jax.nn.softmax(x) for x in logits], axis=(0, 1))
        label = batch["label"][0]
        best = np.argsort(-mean)
        sums["count"] += 1
        sums["loss_sum"] -= np.log(mean[label])
        sums["top1_sum"] += best[0] == label
        sums["top5_sum"] += label in best[:5]
    return sums


@pytest.mark.parametrize("count", [1, 7, 103])
def test_every_image_counts_once_on_any_number_of_devices(count):
    one = totals_of([model()], count)
    assert one["raw"]["count"] == one["ema"]["count"] == count
    for devices in (2, 4):
        assert_close(totals_of([model()], count, devices=devices), one)


def test_results_equal_those_image_by_image():
    totals = totals_of([model()], 23)
    for weights in ("raw", "ema"):
        assert_close(totals[weights], by_hand([model()], 23, 1, weights))
    assert totals["raw"]["loss_sum"] != pytest.approx(totals["ema"]["loss_sum"], rel=0.01)
    assert 0 < totals["raw"]["top1_sum"] < totals["raw"]["top5_sum"] < 23


@pytest.mark.parametrize("views", [10, 12, 144])
def test_views_are_averaged(views):
    count = 5
    totals = totals_of([model()], count, views=views, devices=2)
    assert_close(totals["raw"], by_hand([model()], count, views, "raw"))
    assert totals["raw"]["loss_sum"] != pytest.approx(
        totals_of([model()], count)["raw"]["loss_sum"], rel=1e-3
    )


def test_ensembles():
    alone = totals_of([model()])
    assert_close(totals_of([model(), model()]), alone)
    both = totals_of([model(0), model(1)], 23)
    assert_close(both["raw"], by_hand([model(0), model(1)], 23, 1, "raw"))
    assert both["raw"]["loss_sum"] != pytest.approx(alone["raw"]["loss_sum"], rel=0.01)


def with_one_kind(kind: str, seed: int = 0) -> TrainedModel:
    """Return the raw weights of `model` as those of a model folder of this kind."""
    whole = model(seed)
    return replace(whole, variables={kind: whole.variables["raw"]})


def test_weights_of_model_folders_go_with_both_kinds_of_a_run():
    run, other = model(0), with_one_kind("published", 1)
    totals = totals_of([run, other], 23)
    assert list(totals) == ["raw", "ema"]
    # The folder's weights serve for both kinds of the run.
    twice = replace(
        other, variables=dict.fromkeys(("raw", "ema"), other.weights_or_only("ema"))
    )
    for kind in totals:
        assert_close(totals[kind], by_hand([run, twice], 23, 1, kind))
    assert totals["raw"]["loss_sum"] != pytest.approx(totals["ema"]["loss_sum"], rel=1e-3)


def test_model_folders_have_the_kind_of_their_weights():
    alone = totals_of([with_one_kind("published")], 23)
    assert_close(alone, {"published": totals_of([model()], 23)["raw"]})
    both = [with_one_kind("published"), with_one_kind("published", 1)]
    assert kinds_to_evaluate(both) == ("published",)
    with pytest.raises(ValueError, match="one kind, got published and ema; use"):
        totals_of([with_one_kind("published"), with_one_kind("ema")], 23)


def test_nan_logits_count_as_errors():
    broken = model()
    broken.variables["raw"]["params"]["Logits"]["bias"] = jnp.full((7,), jnp.nan)
    totals = totals_of([broken], 7)
    assert totals["raw"]["top1_sum"] == totals["raw"]["top5_sum"] == 0
    assert np.isnan(totals["raw"]["loss_sum"])
    assert totals["ema"]["count"] == 7


def test_a_probability_of_zero_is_a_large_loss():
    sure = model()
    logits = sure.variables["raw"]["params"]["Logits"]
    logits["kernel"] = 1000 * logits["kernel"]
    found, usual = totals_of([sure], 23)["raw"], totals_of([model()], 23)["raw"]
    assert 23 < found["loss_sum"] < 23 * 88  # -log(1.2e-38) is 87.3
    assert found["top1_sum"] == usual["top1_sum"] > 0


def test_progress():
    batch_sizes = []
    evaluate(
        [model()],
        source(13),
        views=1,
        batch_size=8,
        devices=jax.devices()[:1],
        on_batch=batch_sizes.append,
    )
    assert batch_sizes == [8.0, 5.0]


def test_images_that_cannot_be_read():
    bad = EXAMPLES[3] | {"image": b"no image"}
    some = replace(source(), examples=[*EXAMPLES[:3], bad, *EXAMPLES[4:6]])
    run = partial(
        evaluate, [model()], some, views=1, batch_size=2, devices=jax.devices()[:1]
    )
    with pytest.raises(ValueError, match="val_00000004"):
        run()
    totals, skipped = run(on_bad_image="skip")
    assert totals["raw"]["count"] == totals["ema"]["count"] == 5
    (name,) = skipped
    assert "val_00000004" in name


def test_each_model_has_its_scale():
    """Each model of an ensemble uses its own residual scale, not the network's 0.1."""
    two = [model(residual_scale=x) for x in (0.0, 1.0)]
    alone = [totals_of([one], 23)["raw"]["loss_sum"] for one in (*two, model())]
    assert len({round(loss, 2) for loss in alone}) == 3
    batch = jax.tree.map(jnp.asarray, batches(23, 1)[0])
    each = [view_probabilities(one.model, one.variables["raw"], batch) for one in two]
    mean = (each[0] + each[1]) / 2
    expected = -np.log(mean[np.arange(23), batch["label"]]).sum()
    assert totals_of(two, 23)["raw"]["loss_sum"] == pytest.approx(expected, rel=1e-4)
    gaps = [
        mode_gap(one.model, one.variables["raw"], batches(48, 1), jax.devices()[:1])
        for one in two
    ]
    for mode in ("eval", "train"):
        assert gaps[0][mode]["loss"] != pytest.approx(gaps[1][mode]["loss"], rel=1e-3)


def test_incompatible_models_and_data_are_rejected():
    other = replace(source(), class_names=("cat", *NAMES[1:]))
    with pytest.raises(ValueError, match=r"trained on 7 classes \(a, b, c and 4 more\)"):
        check_compatible([model()], other)
    with pytest.raises(ValueError, match="evaluate it on data with its own classes"):
        check_compatible([model()], replace(source(), class_names=NAMES[::-1]))
    large = model(preprocess=PreprocessSpec((16, 16, 1)))
    with pytest.raises(ValueError, match="an ensemble needs the same preprocessing"):
        check_compatible([model(), large], source())


def test_excluded_images():
    """By number, as in ILSVRC's list, or by name."""
    left = exclude_images(source(10), ["3", "ILSVRC2012_val_00000010.JPEG"])
    names = [example["name"] for example in left.examples]
    assert names == [EXAMPLES[i]["name"] for i in (0, 1, 3, 4, 5, 6, 7, 8)]
    assert isinstance(left.examples, Subset)
    assert len(left) == 8
    with pytest.raises(ValueError, match=r"1 of the images .* ILSVRC2012_val_00000104"):
        exclude_images(source(), ["3", "104"])


def batches(size: int, count: int) -> list[dict[str, np.ndarray]]:
    found = eval_batches(source(size * count), preprocess=SPEC, batch_size=size)
    return [{name: batch[name] for name in ("image", "label")} for batch in found]


@pytest.mark.parametrize("devices", [1, 4])
def test_recalibration(devices):
    """Statistics are those of all batches together, and both modes then agree."""
    one, parts = model(), batches(16, 3)
    raw = one.variables["raw"]
    stats = recalibrate_statistics(one.model, raw, parts, jax.devices()[:devices])
    everything = jnp.concatenate([batch["image"] for batch in parts])
    kernel = raw["params"]["Stem"]["Conv2d_1a_3x3"]["conv"]["kernel"]
    first = jax.lax.conv_general_dilated(
        network_input({"image": everything}, SPEC),
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found = stats["Stem"]["Conv2d_1a_3x3"]["bn"]
    np.testing.assert_allclose(found["mean"], first.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found["var"], first.var((0, 1, 2)), rtol=1e-3)


def test_gap_between_the_modes():
    """Wrong moving averages change evaluation mode only."""
    one, parts = model(), batches(48, 1)
    device = jax.devices()[:1]
    before = mode_gap(one.model, one.variables["raw"], parts, device)
    stats = recalibrate_statistics(one.model, one.variables["raw"], parts, device)
    fitting = one.variables["raw"] | {"batch_stats": stats}
    after = mode_gap(one.model, fitting, parts, device)
    assert after["eval"]["loss"] == pytest.approx(after["train"]["loss"], rel=0.01)
    assert after["train"] == pytest.approx(before["train"])
    assert before["eval"]["loss"] != pytest.approx(before["train"]["loss"], rel=0.1)
