# SPDX-License-Identifier: Apache-2.0
"""Losses against NumPy, sums that are exact over any split, and JSON lines."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.storage.files import append_json_line, read_json_lines
from inception_jax.training.losses import cross_entropy
from inception_jax.training.metrics import best_evaluation, classification_sums, means

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (12, 7)).astype(np.float32)
# Row i's label has the rank (i + 3) modulo 7 among its logits: each rank occurs.
LABELS = np.argsort(-LOGITS, axis=-1)[np.arange(12), (np.arange(12) + 3) % 7]
# Multiples of 1/8 add up exactly in float32, in any order.
LOSSES = (RNG.integers(0, 64, 12) / 8).astype(np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def sums_of(index: slice | np.ndarray, mask: np.ndarray | None = None, logits=LOGITS):
    mask = np.ones(12, np.float32) if mask is None else mask
    arrays = (jnp.asarray(x[index]) for x in (logits, LABELS, LOSSES, mask))
    return classification_sums(*arrays)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy(smoothing):
    """tf.losses.softmax_cross_entropy: one_hot * (1 - smoothing) + smoothing / classes."""
    targets = np.eye(7)[LABELS] * (1 - smoothing) + smoothing / 7
    expected = -(targets * log_softmax(LOGITS)).sum(-1)
    ours = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), smoothing)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1000.0, -1000.0], [-1000.0, 1000.0]])
    losses = cross_entropy(logits, jnp.array([0, 0]), 0.0)
    np.testing.assert_allclose(losses, [0.0, 2000.0])


def test_sums_over_a_partial_batch_are_exact():
    mask = np.array([1.0] * 9 + [0.0] * 3, np.float32)
    masked = sums_of(slice(None), mask)
    assert masked["count"] == 9
    for name, whole in sums_of(slice(9)).items():
        assert masked[name] == whole, name


def test_padding_cannot_spoil_a_sum():
    """The outputs for padding are ignored, even if they are NaN."""
    mask = np.array([1.0] * 9 + [0.0] * 3, np.float32)
    losses = jnp.asarray(np.where(mask > 0, LOSSES, np.nan))
    logits = jnp.asarray(np.where(mask[:, None] > 0, LOGITS, np.nan))
    sums = classification_sums(logits, jnp.asarray(LABELS), losses, jnp.asarray(mask))
    for name, clean in sums_of(slice(9)).items():
        assert sums[name] == clean, name


def test_sums_of_shards_add_up_to_the_whole():
    shards = [sums_of(np.arange(i, 12, 3)) for i in range(3)]
    added = jax.tree.map(lambda *values: sum(values), *shards)
    assert added == sums_of(slice(None))
    assert means(added)["top1"] == np.mean(LOGITS.argmax(-1) == LABELS).astype(np.float32)


def test_top_1_and_top_5():
    sums = sums_of(slice(None))
    assert sums["top1_sum"] == 2  # rows 4 and 11
    assert sums["top5_sum"] == 8  # all but rows 2, 3, 9 and 10
    assert sums["loss_sum"] == LOSSES.sum()


def test_top_5_of_fewer_classes():
    logits, labels = jnp.asarray(LOGITS[:, :3]), jnp.asarray(LABELS % 3)
    ones = jnp.ones(12)
    assert classification_sums(logits, labels, ones, ones)["top5_sum"] == 12


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", [slice(None), slice(3, 4)], ids=["all", "one"])
def test_logits_that_are_not_finite_are_never_hits(bad, where):
    logits = LOGITS.copy()
    logits[:, where] = bad
    for label in (0, 3, logits[0, :3].argmax()):
        labels = np.full(12, label)
        sums = classification_sums(*map(jnp.asarray, (logits, labels, LOSSES, LOSSES**0)))
        assert sums["top1_sum"] == sums["top5_sum"] == 0
        assert sums["count"] == 12


def test_means():
    sums = {"loss_sum": jnp.float32(3.0), "top1_sum": 1.0, "count": 4.0, "rate": 9.0}
    assert means(sums) == {"loss": 0.75, "top1": 0.25}


def test_means_of_null(tmp_path):
    """JSON lines hold NaN as null."""
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"loss_sum": math.nan, "top1_sum": 1.0, "count": 2.0})
    found = means(read_json_lines(path)[0])
    assert math.isnan(found["loss"])
    assert found["top1"] == 0.5


def test_json_lines_come_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = [
        {"step": 1, "loss": 0.1, "name": "é\n", "deep": [{"x": [1.5, None]}]},
        {"step": 2, "loss": 1e-30},
    ]
    assert read_json_lines(path) == []
    for record in records:
        append_json_line(path, record)
    assert read_json_lines(path) == records
    assert path.read_bytes().count(b"\n") == 2


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.0,)})
    assert read_json_lines(path) == [{"a": None, "b": [None, {"c": None}], "d": [1.0]}]
    json.loads(path.read_text(), parse_constant=pytest.fail)


def test_a_torn_last_line_is_ignored(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert read_json_lines(path) == [{"step": 1}]


def test_a_line_after_a_torn_one_is_not_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_json_line(path, {"step": 1})
    for torn in ('{"step": 2, "lo', "{"):
        with path.open("a") as file:
            file.write(torn)
        append_json_line(path, {"step": 2})
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}, {"step": 2}]


def test_a_corrupt_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not JSON") as error:
        read_json_lines(path)
    assert str(path) in str(error.value)
    assert "remove the line" in str(error.value)


def test_the_best_evaluation():
    """By top-1, then by loss, of which NaN is the worst, then the first one."""

    def line(top1: float, loss: float | None, count: float = 10.0) -> dict:
        good = {"top1_sum": 99.0, "loss_sum": 0.0, "count": 100.0}
        return {"raw": good, "ema": {"top1_sum": top1, "loss_sum": loss, "count": count}}

    lines = [line(5, 3), line(7, 9), line(7, None), line(7, 8), line(7, 8), line(6, 1)]
    assert best_evaluation(lines) == 3
    assert best_evaluation([line(7, None), line(7, 9)]) == 1
    assert best_evaluation([line(8, 1, count=20), line(7, 1)]) == 1
