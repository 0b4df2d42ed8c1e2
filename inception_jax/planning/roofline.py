# SPDX-License-Identifier: Apache-2.0
"""Data sheets of TPU chips, and lower bounds of a program's time on a slice of them.

A slice is a set of chips connected by a torus or mesh, rented as one unit. The roofline
model and the formula for the all-reduce are those of jax-ml.github.io/scaling-book
(chapters on rooflines and on sharding). They assume perfect use of the chip.
"""

import math
from dataclasses import dataclass

from inception_jax.runtime.devices import PEAK_BFLOAT16

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """The data sheet of a TPU chip, which is one device in JAX.

    Sources: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e. They give the bandwidth of all
    links of a chip in both directions; `link_rate` is for one link in one direction.
    """

    kind: str  # jax.Device.device_kind
    hbm: int  # bytes
    hbm_rate: float  # bytes per second
    link_rate: float  # bytes per second to one neighbour
    # An axis of a slice has wraparound links if it is this long (v5e, v6e), or if all
    # axes are multiples of it (v4, v5p). Source: the scaling book, chapter on TPUs.
    whole_axis: int
    slices: tuple[str, ...]  # shapes that can be rented, up to 256 chips
    # Cycles per second, for chips with one core; converts the compiler's cycles to time.
    # v5e: 197e12 operations per second from four units of 128x128 multiply-adds.
    clock: float | None = None

    @property
    def peak(self) -> float:
        """Peak floating-point operations per second in bfloat16."""
        return PEAK_BFLOAT16[self.kind]


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")

CHIPS = {
    # The link rate of v4 is derived from 1.1 PB/s for the all-reduce of a whole pod: 4,096
    # chips with six links each.
    "v4": Chip("TPU v4", 32 * GIB, 1200e9, 45e9, 4, _CUBIC),
    "v5e": Chip("TPU v5 lite", 16 * GIB, 819e9, 50e9, 16, _FLAT, clock=1.5e9),
    "v5p": Chip("TPU v5", 95 * GIB, 2765e9, 100e9, 4, _CUBIC),
    "v6e": Chip("TPU v6 lite", 32 * GIB, 1638e9, 100e9, 16, _FLAT),
}


@dataclass(frozen=True)
class Slice:
    """Chips that are connected in a mesh, some axes of which are rings."""

    name: str  # such as "v5e:4x4"
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Names of all slices of the same kind of chip, the smallest first."""
        kind = self.name.partition(":")[0]
        return tuple(f"{kind}:{shape}" for shape in self.chip.slices)

    @property
    def links(self) -> int:
        """Number of links of a chip at a corner of the mesh, which has the fewest."""
        whole = self.chip.whole_axis
        is_cubic = len(self.shape) == 3
        cube_wraps = is_cubic and all(size % whole == 0 for size in self.shape)
        links = 0
        for size in self.shape:
            if size > 1:
                is_ring = cube_wraps if is_cubic else size == whole
                links += 2 if is_ring else 1
        return links

    def all_reduce_seconds(self, size: float | int) -> float:
        """Return a lower bound of the time to sum `size` bytes per chip over all chips.

        A chip receives the shares of all other chips twice: first the terms, which it adds,
        and then the sums. For rings this is 2 V / W of the scaling book; an axis without
        wraparound links takes twice as long.
        """
        received = 2 * size * (self.chips - 1) / self.chips
        return received / (self.links * self.chip.link_rate)


def get_slice(name: str) -> Slice:
    """Return the slice called `name`, such as "v5e:4x4".

    Raises ValueError for an unknown name, listing the valid ones.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(
            f"topology must be CHIP:SHAPE, such as v5e:4x4, with one of "
            f"{', '.join(CHIPS)} as the chip, got {name!r}."
        )
    chip = CHIPS[kind]
    if shape not in chip.slices:
        raise ValueError(
            f"topology must be one of "
            f"{', '.join(f'{kind}:{shape}' for shape in chip.slices)} for {kind}, got "
            f"{name!r}."
        )
    return Slice(name, chip, tuple(map(int, shape.split("x"))))
