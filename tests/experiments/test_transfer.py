# SPDX-License-Identifier: Apache-2.0
"""The transfer experiment: data, baselines, the table, and the claim that holds (slow)."""

from pathlib import Path

import numpy as np
import pytest

from experiments import transfer
from experiments.transfer import Result, draw, interval, linear, report
from inception_jax.data.open_source import open_source


def test_images_of_a_draw(tmp_path):
    """Only the first scans of the new digits are drawn; they have their class's folder."""
    files, _, labels = transfer.scans()
    chosen = draw(labels, 5, seed=1)
    assert np.bincount(labels[chosen], minlength=10).tolist() == [0] * 5 + [5] * 5
    assert (chosen < 1500).all()
    assert set(chosen) != set(draw(labels, 5, seed=2))
    drawn = np.isin(np.arange(len(labels)), chosen)
    last = (labels >= 5) & ~drawn & (np.arange(len(labels)) > 1700)
    transfer.write_images(tmp_path / "x", files, labels, {"train": drawn, "val": last})
    source = open_source(f"folder:{tmp_path / 'x'}", "train")
    assert source.class_names == tuple("56789")
    assert len(source) == 25
    names = [Path(example["name"]) for example in source.examples]
    assert sorted(int(name.stem) for name in names) == sorted(chosen)
    assert all(labels[int(name.stem)] == int(name.parent.name) for name in names)


@pytest.mark.parametrize("views", [0, 3])
def test_linear_baselines_learn(views):
    _, pixels, labels = transfer.scans()
    drawn = np.sort(draw(labels, 5, seed=0))
    test = np.setdiff1d(np.flatnonzero(labels >= 5), drawn)[:200]
    sets = [(pixels[x], labels[x]) for x in (drawn, test)]
    assert 0.75 < linear(*sets, views=views, seed=0) < 1


def test_views_of_an_image_are_in_one_fold():
    class Halves:
        def split(self, images: np.ndarray, labels: np.ndarray):
            yield np.array([0, 2]), np.array([1])

    images = np.zeros((3, 8, 8), np.uint8), np.arange(3)
    ((train, test),) = transfer._folds(Halves(), images, 2)
    assert (train.tolist(), test.tolist()) == ([0, 1, 4, 5], [2, 3])
    ((train, test),) = transfer._folds(Halves(), images, 0)
    assert (train.tolist(), test.tolist()) == ([0, 2], [1])


def test_the_table(tmp_path):
    """Means with intervals by Student's t, and differences paired by seed."""
    shares = {"linear": (0.5, 0.7), "all": (0.6, 0.8)}
    results = [
        Result(5, seed, method, shares.get(method, (0.1, 0.1))[seed])
        for method in transfer.METHODS
        for seed in (1, 0)
    ]
    # t of one degree of freedom: 12.706.
    assert interval([0.5, 0.7]) == pytest.approx((0.6, 12.706 * 0.1), rel=1e-3)
    text = report(results, tmp_path)
    assert "| 5 | linear | 60.0 ± 127.1 |  |" in text
    assert "| 5 | all | 70.0 ± 127.1 | 10.0 ± 0.0 |" in text
    assert "5,1,linear,0.7" in (tmp_path / "results.csv").read_text()


@pytest.mark.parametrize(
    ("above", "verdict"), [((0.25, 0.3, 0.35), "holds"), ((0.2, 0.3, 0.4), "is not shown")]
)
def test_a_claim_needs_its_own_interval(above, verdict):
    """With two degrees of freedom, t is 4.303 at 95 % and 8.860 at 98.75 %; both 95 %
    intervals are above 0."""
    results = [Result(5, seed, "linear", 0.1) for seed in range(3)]
    results += [Result(5, seed, "all", 0.1 + x) for seed, x in enumerate(above)]
    text = transfer.claim(results, 5)
    claim = f"That all beats linear at 5 images per class {verdict}"
    assert text.startswith(f"{claim}: 30.0 ± ")
    assert text.endswith("points (98.75 %, 3 seeds).")


@pytest.mark.slow
def test_fine_tuning_beats_a_linear_classifier(tmp_path):
    """Fine-tuning wins with 20 images per class, for three of the protocol's seeds."""
    results = transfer.run(tmp_path, shots=(20,), seeds=range(10, 13))
    own, linear = (transfer.accuracies(results, 20, name) for name in ("all", "linear"))
    assert linear.mean() > 0.9
    assert own.mean() > linear.mean() + 0.005
