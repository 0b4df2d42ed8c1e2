# SPDX-License-Identifier: Apache-2.0
"""A run of the study and everything that defines it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_origin

PAPER_LEARNING_RATE = 0.045  # section 4
PAPER_WIDTH = 1000  # "if the number of filters exceeded 1000" (section 3.3)


@dataclass(frozen=True)
class Run:
    """One training run. Runs that differ only in values share one compiled program."""

    # Fields that change the compiled program.
    # "prototypes" and "endless" are generated (`generated.py`); every other name is opened
    # by `inception_jax.data.open_source`.
    data: str = "digits"
    # "C": `depth` narrow Inception-ResNet-C blocks. The others are networks of the paper.
    network: Literal[
        "C",
        "inception_resnet_v2_paper",
        "inception_resnet_v1",
        "inception_resnet_v2",
        "inception_v4",
    ] = "C"
    # Channels before the average pool. In a network of the paper, all widths are in
    # proportion; see `FULL_WIDTHS`.
    width: int = 256
    image_size: int = 8  # in pixels, for the networks of the paper only
    depth: int = 10  # residual blocks per stage
    # "v1" and "v2": branches of Figs 13 and 19. "plain": without the sum. "concat":
    # concatenated branches of equal cost.
    block: Literal["v1", "v2", "plain", "concat"] = "v1"
    # "paper": pool after the ReLU of the sum. "published": last block without ReLU, then a
    # 1x1 convolution.
    head: Literal["paper", "published"] = "paper"
    activation: Literal["relu", "leaky_relu", "pre"] = "relu"  # after the sum
    pool_norm: Literal["none", "before_relu", "after_relu"] = "none"  # extra batch norm
    residual_norm: bool = False  # batch norm after the linear 1x1
    learned_scale: Literal["none", "scalar", "channel"] = "none"
    optimizer: Literal["rmsprop", "momentum"] = "rmsprop"
    dtype: Literal["float32", "bfloat16"] = "float32"
    weight_decay: float = 0.0
    # Replicas of asynchronous training (`inception_jax.training.stale`); 1: synchronous.
    replicas: int = 1
    batch_size: int = 32
    steps: int = 80
    probe_every: int = 10
    probe_first: int = 0  # number of steps at the start that are all probed
    # Fields that do not change the compiled program.
    init: Literal["he", "glorot", "lecun", "stddev_0.1"] = "he"  # of linear 1x1 kernels
    kernel_init: Literal["published", "stddev_0.1"] = "published"  # of other convolutions
    init_gain: float = 1.0  # factor on the initial linear 1x1 kernels
    scale: float | None = 1.0  # residual scale; None: as published
    learned_scale_init: float = 1.0
    learning_rate: float = PAPER_LEARNING_RATE
    warmup: Literal["constant", "linear"] = "constant"
    warmup_steps: int = 0
    warmup_rate: float = 1e-5  # the paper's: "as low as 0.00001"
    clip_norm: float | None = None
    momentum: float = 0.9
    classifier_rate: float = 1.0  # factor on the learning rate of the classifier
    linear_rate: float = 1.0  # factor on the learning rate of the linear 1x1 convolutions
    stagger: int = 0  # steps between the starts of two replicas; with 0, all start at once
    seed: int = 0  # of initial weights, order of the data, choice of replicas

    def __post_init__(self) -> None:
        for name in ("width", "depth", "batch_size", "steps", "probe_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        for field in fields(self):
            value, options = getattr(self, field.name), get_args(field.type)
            if get_origin(field.type) is Literal and value not in options:
                raise ValueError(
                    f"{field.name} must be {' or '.join(options)}, got {value!r}."
                )
        if self.network in FULL_WIDTHS:
            fixed = ", ".join(sorted({"depth", "block", "head"} & set(self.changes)))
            if fixed:
                raise ValueError(f"{self.network} has its own blocks; leave out {fixed}.")
            if self.image_size < 75:
                raise ValueError(
                    f"{self.network} needs image_size 75 or more, got {self.image_size}."
                )
        if self.stagger and self.replicas == 1:
            raise ValueError(f"stagger must be 0 for one replica, got {self.stagger}.")
        changed = ", ".join(sorted(set(self.changes) & RESIDUAL_FIELDS))
        if self.block == "concat" and changed:
            raise ValueError(f"block concat has no residuals, so {changed} cannot be set.")
        if self.scale is not None and not 0 <= self.scale <= 1:
            raise ValueError(f"scale must lie in [0, 1], got {self.scale}.")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}.")

    @property
    def shape(self) -> "Run":
        """This run with default values; runs of one shape can train side by side."""
        return replace(self, **{name: DEFAULTS[name] for name in VALUES})

    @property
    def program(self) -> "Run":
        """This shape with default lengths; it determines the compiled program.

        One program serves all numbers of replicas above 1.
        """
        lengths = ("steps", "probe_every", "probe_first")
        lengths = {name: DEFAULTS[name] for name in lengths}
        replicas = 1 if self.replicas == 1 else MAX_REPLICAS
        return replace(self.shape, **lengths, replicas=replicas)

    @property
    def setting(self) -> "Run":
        """This run with seed 0; runs of one setting differ only in their seed."""
        return replace(self, seed=0)

    def on_data(self, data: str) -> "Run":
        """Return this run on another data set, unless its data are generated."""
        return replace(self, data=data) if self.data == "digits" else self

    @property
    def changes(self) -> dict[str, object]:
        """The fields that differ from the defaults, except the seed."""
        return {
            name: value
            for name, default in DEFAULTS.items()
            if (value := getattr(self, name)) != default and name != "seed"
        }

    @property
    def description(self) -> str:
        """The setting as text: width, scale, learning rate and all changes."""
        always = {n: getattr(self, n) for n in ("width", "scale", "learning_rate")}
        return describe_fields(always | self.changes)

    def __str__(self) -> str:
        return f"{self.description}, seed {self.seed}"


MAX_REPLICAS = 20  # the paper's number of replicas
# Channels before the average pool in the networks of the paper.
FULL_WIDTHS = {
    "inception_resnet_v2_paper": 2144,
    "inception_resnet_v1": 1792,
    "inception_resnet_v2": 1536,
    "inception_v4": 1536,
}
# Fields of residual blocks only.
RESIDUAL_FIELDS = {
    *("activation", "pool_norm", "residual_norm", "learned_scale", "init", "init_gain"),
    *("scale", "linear_rate"),
}
DEFAULTS = {f.name: f.default for f in fields(Run)}
VALUES = tuple(DEFAULTS)[tuple(DEFAULTS).index("init") :]


def describe_fields(values: Mapping[str, object]) -> str:
    """Describe fields of a run, as in "learning rate 0.2, depth 4"."""
    words = []
    for name, value in values.items():
        if name == "scale" and value is None:
            value = "as published"
        shown = f"{value:.3g}" if isinstance(value, float) else value
        words.append(f"{name.replace('_', ' ')} {shown}")
    return ", ".join(words)
