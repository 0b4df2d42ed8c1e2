# SPDX-License-Identifier: Apache-2.0
"""Plans: the estimates, and the search for the largest batch."""

from dataclasses import replace

import pytest

from inception_jax.config import ParallelConfig
from inception_jax.planning import aot
from inception_jax.planning.aot import TooLarge
from inception_jax.planning.plan import Plan, Scaling, make_plan
from inception_jax.planning.roofline import GIB, get_slice
from tests.planning.examples import CONFIG, compiled_step


def test_roofline_and_scaling():
    plan = Plan(CONFIG, get_slice("v5e:4x4"), compiled_step(), None)
    assert plan.images == 40
    assert plan.compute_seconds == pytest.approx(2.9 / 197)
    assert plan.hbm_seconds == pytest.approx(16 / 819)
    assert plan.step_seconds == plan.hbm_seconds
    assert plan.images_per_second == pytest.approx(40 * 819 / 16)
    assert plan.expected_seconds == pytest.approx(0.1 / 1.5)
    row = plan.scaling[2]
    assert (row.chips, len(plan.scaling)) == (16, 7)
    step, all_reduce = 16 / 819, 2 * 0.17 * 15 / 16 / 100
    assert row.waiting == pytest.approx(step / (step + all_reduce))
    assert row.overlapped == 1.0
    assert Scaling.of(8, 1.0, 4.0) == Scaling(8, 4.0, 0.2, 0.25)
    compute_bound = replace(compiled_step(), flops=5e12)
    assert replace(plan, program=compute_bound).step_seconds == pytest.approx(5 / 197)
    on_v6e = replace(plan, slice=get_slice("v6e:4x4"))
    assert on_v6e.expected_seconds is None


def compiler_with_memory(
    monkeypatch, *, each: float, limit: float = 15.75, bend: float = 1.0
):
    """Replace the compiler; return a list of its calls as (topology, images).

    An image takes `each` GiB, and `bend` times as much beyond 32 images.
    """
    requested = []

    def load_or_compile(config, topology, *, fresh, log):
        images = config.batch_size // get_slice(topology).chips
        requested.append((topology, images))
        grown = each * (min(images, 32) + max(0, images - 32) * bend)
        needed = round((0.5 + grown) * GIB)
        if needed > limit * GIB:
            return TooLarge(needed, round(limit * GIB), 1.0)
        return compiled_step(needed)

    monkeypatch.setattr(aot, "load_or_compile", load_or_compile)
    return requested


@pytest.mark.parametrize(
    ("memory", "largest", "compiled_for"),
    [
        # A guess of 1.5 x 15.5 / 0.09 = 258 images, and half as many fit.
        ({"each": 0.09}, 128, [256, 128]),
        # The guess is right.
        ({"each": 0.065}, 128, [256, 128]),
        ({"each": 0.09, "bend": 0.5}, 256, [256, 512]),
        # The guess is too low.
        ({"each": 0.09, "bend": 0.1}, 1024, [256, 512, 1024, 2048]),
        # The guess is too high.
        ({"each": 0.09, "bend": 3.0}, 64, [128, 64]),
    ],
)
def test_the_largest_batch(monkeypatch, memory, largest, compiled_for):
    requested = compiler_with_memory(monkeypatch, **memory)
    plan = make_plan(CONFIG, "v5e:4x4", largest=True, log=print)
    assert plan.largest.images == largest
    assert requested == [("v5e:4x4", 40), *(("v5e:2x2", n) for n in compiled_for)]
    assert plan.largest.refused.needed > 15.75 * GIB >= plan.largest.program.needed


def test_the_error_for_a_batch_that_does_not_fit_names_the_largest(monkeypatch):
    compiler_with_memory(monkeypatch, each=0.5)
    message = (
        r"40 images per chip of v5e:4x4 need at least 20\.5 GiB of HBM, but 15\.75 GiB are "
        r"available\. At most 16 images fit \(--batch 256\)\. Choose a smaller "
        r"--batch, or split the batch with --accumulate, or use --remat\."
    )
    with pytest.raises(ValueError, match=message):
        make_plan(CONFIG, "v5e:4x4", largest=True, log=print)
    with pytest.raises(ValueError, match="Choose a smaller --batch"):
        make_plan(CONFIG, "v5e:4x4", largest=False, log=print)
    compiler_with_memory(monkeypatch, each=20.0)
    with pytest.raises(ValueError, match="Choose a smaller --batch"):
        make_plan(CONFIG, "v5e:4x4", largest=True, log=print)


def test_accumulate_divides_the_largest_batch(monkeypatch):
    requested = compiler_with_memory(monkeypatch, each=0.09)
    config = replace(CONFIG, accumulate=5, batch_size=800)
    plan = make_plan(config, "v5e:4x4", largest=True, log=print)
    assert plan.largest.images == 160
    assert [images for _, images in requested] == [50, 160, 320]


def test_the_largest_batch_needs_a_slice_that_bn_sync_divides(monkeypatch):
    requested = compiler_with_memory(monkeypatch, each=0.5)
    config = replace(CONFIG, parallel=ParallelConfig("shard_map", 8), batch_size=64)
    plan = make_plan(config, "v5e:8x8", largest=True, log=print)
    assert plan.largest.topology == "v5e:2x4"
    assert {topology for topology, _ in requested} == {"v5e:8x8", "v5e:2x4"}
