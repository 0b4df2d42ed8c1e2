# SPDX-License-Identifier: Apache-2.0
"""Exit statuses of a run and printed results of an evaluation."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from experiments import evaluate, run
from inception_jax.config import RunConfig
from inception_jax.data.decoding import UnreadableImage
from inception_jax.storage.checkpoints import CheckpointError
from inception_jax.training import fit as training
from inception_jax.training.loop import NonFiniteError
from inception_jax.weights.model_folder import Origin
from tests.inference.test_evaluate import EXAMPLES, _one, model, source  # noqa: F401  a fixture


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (lambda: True, 0, ""),
        (lambda: False, 75, "Stopped and saved; repeat the command to resume."),
        (NonFiniteError("step 3: the loss is nan."), 3, "step 3: the loss is nan."),
        (KeyboardInterrupt(), 130, "Interrupted; the last checkpoint is kept."),
        (UnreadableImage("a.jpg", "no image"), 2, "a.jpg"),
        (OSError("No space left on device"), 74, "No space left on device"),
        (CheckpointError("5 is damaged and no other is left."), 74, "5 is damaged"),
        (training.HostLostError("process 1 is gone."), 76, "process 1 is gone."),
    ],
)
def test_status_of_a_run(monkeypatch, capsys, end, status, message):
    def fit(config: RunConfig, started: float) -> bool:
        if isinstance(end, BaseException):
            raise end
        return end()

    monkeypatch.setattr(training, "fit", fit)
    assert run.main(["digits"]) == status
    said = capsys.readouterr().err
    assert message in said
    assert bool(said) == bool(message)


def test_summary_of_an_evaluation():
    raw = {"loss_sum": 100.0, "top1_sum": 150.0, "top5_sum": 180.0, "count": 200.0}
    record = {
        **{"networks": ["a", "b"], "sources": ["run", "run"], "steps": [3, 4]},
        **{"data": "somewhere", "split": "eval"},
        **{"excluded": 7, "skipped": ["x.jpg"], "crops": 12},
        **{"raw": raw, "ema": raw | {"top1_sum": 190.0, "top5_sum": 199.0}},
    }
    first, _, *weights, last = evaluate.summary(record).splitlines()
    assert first == (
        "a (step 3) + b (step 4) on somewhere eval: 200 images, 7 excluded, "
        "1 unreadable and skipped, 12 crops"
    )
    assert [line.split() for line in weights] == [
        ["raw", "25.00%", "10.00%", "0.5000"],
        ["ema", "5.00%", "0.50%", "0.5000"],
    ]
    assert last == "skipped: x.jpg"
    timm = {"networks": ["a"], "sources": ["timm"], "steps": [None], "published": raw}
    kept = {key: x for key, x in record.items() if key not in ("raw", "ema")}
    first, _, line, _ = evaluate.summary(kept | timm).splitlines()
    assert first.startswith("a (timm) on somewhere eval: 200 images")
    assert line.split() == ["published", "25.00%", "10.00%", "0.5000"]


@pytest.fixture
def gaps(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Sizes of the compared batches; moving averages cost ema weights 5 % of top-1."""
    sizes = []

    def mode_gap(one, variables, batches, devices):
        sizes.append([len(batch["label"]) for batch in batches])
        averaged = jnp.std(variables["params"]["Logits"]["kernel"]) < 8.5  # 7, raw 10
        loss = 0.05 if averaged else -0.05
        mean = {"loss": 1.0, "top5": 1.0}
        return {"eval": mean | {"top1": 0.5 - loss}, "train": mean | {"top1": 0.5}}

    monkeypatch.setattr(evaluate, "mode_gap", mode_gap)
    return sizes


def test_a_warning_if_moving_averages_do_not_fit(gaps):
    one = model()
    said = evaluate.compare_batch_norm_modes(one, source(100), jax.devices()[:2], 16)
    assert gaps == [[16] * 6] * 2  # 100 // 16
    assert "raw: with moving averages loss 1.0000, top-1 55.00%" in said
    assert "with statistics of batches of 8" in said  # on each of two devices
    assert "WARNING: ema weights lose 5.0%" in said
    assert "experiments.recalibrate RUN --out DIR" in said
    assert said.count("WARNING") == 1
    evaluate.compare_batch_norm_modes(one, source(), jax.devices()[:1], 16)
    assert len(gaps[-1]) == 6
    evaluate.compare_batch_norm_modes(one, source(), jax.devices()[:1], 4)
    assert gaps[-1] == [4] * 8
    imported = model(origin=Origin("timm", "a.safetensors"))
    imported = replace(imported, variables={"published": imported.weights_or_only("ema")})
    said = evaluate.compare_batch_norm_modes(imported, source(), jax.devices()[:1], 16)
    assert "published weights lose 5.0% of top-1 accuracy because" in said
    assert "recalibrate" not in said


def test_modes_are_compared_without_unreadable_images(gaps):
    examples = [*EXAMPLES[:3], EXAMPLES[3] | {"image": b"no image"}, *EXAMPLES[4:16]]
    one, some = model(), replace(source(), examples=examples)
    evaluate.compare_batch_norm_modes(one, some, jax.devices()[:1], 8)
    assert gaps == [[8]] * 2
    for few, devices in ((some, 4), (source(3), 4)):
        said = evaluate.compare_batch_norm_modes(one, few, jax.devices()[:devices], 16)
        assert said == "Too few images to compare training and evaluation mode."


def test_modes_are_compared_on_mixed_classes(monkeypatch):
    """Folders are ordered by class, and a batch of one class is not typical."""
    labels = []

    def mode_gap(one, variables, batches, devices):
        labels.extend(set(batch["label"].tolist()) for batch in batches)
        return {mode: {"loss": 1.0, "top1": 0.5} for mode in ("eval", "train")}

    monkeypatch.setattr(evaluate, "mode_gap", mode_gap)
    by_class = sorted(EXAMPLES, key=lambda example: example["label"])
    mixed = replace(source(), examples=by_class)
    evaluate.compare_batch_norm_modes(model(), mixed, jax.devices()[:1], 16)
    assert len(labels) == 12
    assert all(len(some) > 3 for some in labels)
