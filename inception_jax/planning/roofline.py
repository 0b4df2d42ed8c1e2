# SPDX-License-Identifier: Apache-2.0
"""TPU chips in figures, and the least time that a program can take on them.

Bounds: nothing here knows how well a program uses a chip. The model and the formula for
the all-reduce are those of jax-ml.github.io/scaling-book (rooflines; sharding).
"""

import math
from dataclasses import dataclass

from inception_jax.runtime.hardware import PEAK_BFLOAT16

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip, which JAX counts as one device.

    Sources: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. They give the interconnect of all
    links of a chip and both directions, or of a pod; here it is one link, one way. On
    `whole_axis` see the scaling book on TPUs.
    """

    kind: str  # as JAX names it
    hbm: int  # bytes
    hbm_rate: float  # bytes per second
    link_rate: float  # bytes per second to a neighbour
    # The ends of an axis of a slice are joined where it is as long as the pod's (v5e, v6e)
    # or where all axes are multiples of it (v4, v5p).
    whole_axis: int
    slices: tuple[str, ...]  # that can be had, up to 256 chips
    # Cycles per second, where one core is the chip and the compiler's cycles are its:
    # 197e12 operations of four units of 128 x 128 multiply-accumulates.
    clock: float | None = None

    @property
    def peak(self) -> float:
        """Operations per second in bfloat16."""
        return PEAK_BFLOAT16[self.kind]


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")

CHIPS = {
    # 1.1 PB/s for the all-reduce of 4,096 chips with six links each.
    "v4": Chip("TPU v4", 32 * GIB, 1200e9, 45e9, 4, _CUBIC),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 819e9, 50e9, 16, _FLAT, clock=1.5e9),
    "v5p": Chip("TPU v5", 95 * GIB, 2765e9, 100e9, 4, _CUBIC),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 1638e9, 100e9, 16, _FLAT),
}


@dataclass(frozen=True)
class Slice:
    """Chips that are joined in a mesh, some axes of which are rings."""

    name: str  # as "v5e:4x4"
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def links(self) -> int:
        """Links of the chip that has the fewest, at a corner."""
        whole = self.chip.whole_axis
        cubic = len(self.shape) == 3
        all_rings = cubic and all(size % whole == 0 for size in self.shape)
        rings = [all_rings or (not cubic and size == whole) for size in self.shape]
        return sum(
            1 + ring for size, ring in zip(self.shape, rings, strict=True) if size > 1
        )

    def all_reduce_seconds(self, size: float | int) -> float:
        """Least time for the sum over all chips of `size` bytes that each of them has.

        Every chip has to receive all but its own share of the sums twice: while they are
        made and when they are handed out. For rings this is 2 V / W of the scaling book,
        and twice that for an axis without joined ends.
        """
        received = 2 * size * (self.chips - 1) / self.chips
        return received / (self.links * self.chip.link_rate)


def slice_named(name: str) -> Slice:
    """The slice of a name such as "v5e:4x4". Raises ValueError with the names there are."""
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"topology must be CHIP:SHAPE, such as v5e:4x4, with one of "
            f"{', '.join(CHIPS)} as the chip, got {name!r}."
        )
    chip = CHIPS[kind]
    if shape not in chip.slices:
        raise ValueError(
            f"topology {name!r} is not known; of {kind} there are "
            f"{', '.join(f'{kind}:{shape}' for shape in chip.slices)}."
        )
    return Slice(name, chip, tuple(map(int, shape.split("x"))))


def efficiency(step: float, all_reduce: float) -> tuple[float, float]:
    """Share of the speed of as many chips without an all-reduce, from both times.

    First if the step waits for the all-reduce, then if it goes on during all of it.
    """
    return step / (step + all_reduce), step / max(step, all_reduce)
