# SPDX-License-Identifier: Apache-2.0
"""Data sheets of the chips, and lower bounds of the time of all-reduces."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inception_jax.planning import aot
from inception_jax.planning.roofline import CHIPS, get_slice
from tests.planning.examples import needs_libtpu


@pytest.mark.parametrize(
    ("name", "chips", "links", "milliseconds"),
    [
        # The bytes that a chip receives, divided by the rate of its links. The chip with
        # the fewest links decides. Rings of 16: two links of 50 GB/s for each of two axes.
        ("v5e:16x16", 256, 4, 2 * 255 / 256 / 200 * 1e3),
        ("v5e:4x4", 16, 2, 2 * 15 / 16 / 100 * 1e3),
        ("v5e:8x16", 128, 3, 2 * 127 / 128 / 150 * 1e3),
        ("v6e:2x2", 4, 2, 2 * 3 / 4 / 200 * 1e3),
        ("v4:2x2x1", 4, 2, 2 * 3 / 4 / 90 * 1e3),
        ("v4:2x4x4", 32, 3, 2 * 31 / 32 / 135 * 1e3),
        ("v5p:4x4x4", 64, 6, 2 * 63 / 64 / 600 * 1e3),
    ],
)
def test_all_reduce_of_a_gigabyte(name, chips, links, milliseconds):
    tpu_slice = get_slice(name)
    assert (tpu_slice.chips, tpu_slice.links) == (chips, links)
    assert tpu_slice.all_reduce_seconds(1e9) * 1e3 == pytest.approx(milliseconds)


def test_chips_match_their_data_sheets():
    for kind, chip in CHIPS.items():
        for shape in chip.slices:
            assert get_slice(f"{kind}:{shape}").chips <= 256
    # All links of a chip, both directions: 400, 1200 and 800 GB/s.
    assert CHIPS["v5e"].link_rate * 2 * 4 == 400e9
    assert CHIPS["v5p"].link_rate * 2 * 6 == 1200e9
    assert CHIPS["v6e"].link_rate * 2 * 4 == 800e9
    assert CHIPS["v5e"].peak == pytest.approx(4 * 2 * 128**2 * 1.5e9, rel=0.01)


@needs_libtpu
@pytest.mark.slow
def test_libtpu_supports_every_slice():
    names = [f"{kind}:{shape}" for kind, chip in CHIPS.items() for shape in chip.slices]
    program = (
        "import sys\n"
        "from inception_jax.runtime.devices import describe\n"
        "from inception_jax.runtime.devices import compile_only_tpus\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, describe(compile_only_tpus(name)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | aot.WORKER_ENVIRONMENT,
    )
    slices = [get_slice(name) for name in names]
    expected = [f"{s.name} {s.chips} x {s.chip.kind}" for s in slices]
    assert [x for x in result.stdout.splitlines() if x in expected] == expected
