# SPDX-License-Identifier: Apache-2.0
"""The settings of a training run: frozen dataclasses that check their own values.

The comment on a field is its help text on the command line. Defaults are those of the
paper's section 4, or those of TF-slim, its published code, where the paper gives none.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from inception_jax.config.checks import (
    BelowOne,
    Checked,
    Count,
    Finite,
    Natural,
    NonNegative,
    Positive,
    Seed,
    UnitInterval,
    UpToOne,
    check_valid,
)


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """Optimizer, learning-rate schedule, and averaging of the weights."""

    # Update rule: rmsprop, as in TensorFlow 1 (the paper's best), or momentum (SGD).
    kind: Literal["rmsprop", "momentum"] = "rmsprop"
    # Learning rate after warm-up and before the first decay; section 4.
    learning_rate: Positive = 0.045
    decay_rate: UpToOne = 0.94  # Multiplier of the learning rate at each decay; section 4.
    # Epochs between decays of the learning rate; section 4.
    epochs_per_decay: Positive = 2.0
    momentum: BelowOne = 0.9  # Momentum; section 4 for SGD, TF-slim for RMSProp.
    # Decay of RMSProp's moving average of squared gradients; section 4.
    rms_decay: BelowOne = 0.9
    epsilon: Positive = 1.0  # Constant that RMSProp adds under the square root; section 4.
    # L2 weight decay of the kernels; TF-slim's value.
    weight_decay: NonNegative = 4e-5
    # Clip gradients to this global norm; None disables clipping.
    clip_norm: Positive | None = None
    # Warm-up: constant at --optimizer.warmup-rate (section 3.3), or linear, rising from it.
    warmup: Literal["constant", "linear"] = "constant"
    warmup_steps: Natural = 0  # Number of warm-up steps.
    warmup_rate: NonNegative = 1e-5  # Learning rate at the start of warm-up; section 3.3.
    # Multiplier of the learning rate for the layers that output logits.
    classifier_rate: NonNegative = 1.0
    # Multiplier of the learning rate for the linear 1x1 convolutions of residual blocks.
    linear_rate: NonNegative = 1.0
    # Multiplier of the learning rate of the body, all but the classifiers; 0 freezes its
    # parameters.
    body_rate: NonNegative = 1.0
    # Decay of the averaged weights, which the paper evaluates; facenet's value.
    ema_decay: BelowOne = 0.9999


@dataclass(frozen=True)
class LossConfig(Checked):
    """Terms of the loss besides the cross-entropy of the main classifier."""

    # Label smoothing; TF-slim's default. Inception-v3 used 0.1.
    label_smoothing: BelowOne = 0.0
    # Weight of the auxiliary classifier's loss, with --aux-head; TF-slim's value.
    aux_weight: NonNegative = 0.4


@dataclass(frozen=True)
class ParallelConfig(Checked):
    """How a step is distributed over devices."""

    # JAX transformation that maps a step over the devices.
    wrapper: Literal["pmap", "shard_map"] = "pmap"
    # Devices that share batch statistics: none, global (all), or N (groups of N devices).
    bn_sync: Literal["none", "global"] | int = "none"
    # Number of replicas in simulated asynchronous training: at each step, one replica
    # computes the gradient at its stale copy of the parameters. 1 trains synchronously.
    stale_replicas: Count = 1
    # Steps between the starts of two replicas, 15 in TF-slim; with 0, all start at once.
    stale_stagger: Natural = 0
    # How the replica of a step is chosen: at random, or cyclically.
    stale_order: Literal["random", "cyclic"] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        sync = self.bn_sync
        valid = sync in ("none", "global") or (isinstance(sync, int) and sync > 1)
        check_valid(valid, "bn_sync", sync, "none, global or a group size of 2 or more")
        stagger = self.stale_stagger
        valid = stagger == 0 or self.stale_replicas > 1
        check_valid(valid, "stale_stagger", stagger, "0 with stale_replicas 1")


@dataclass(frozen=True)
class PreprocessSpec(Checked):
    """How an image file becomes the input of a network; stored with the weights.

    The defaults are TF-slim's: the central 87.5 % of both sides, stretched to `image_shape`
    with bilinear interpolation, in the range [-1, 1].
    """

    image_shape: tuple[int, int, int] = (299, 299, 3)  # Height, width and channels.
    crop_fraction: UpToOne = 0.875  # Fraction of height and width in the central crop.
    # "stretch": crop that fraction of both sides and stretch it, as TF-slim does. "keep":
    # resize the shorter side to size / crop_fraction and crop the centre, as timm does.
    aspect: Literal["stretch", "keep"] = "stretch"
    resize: Literal["bilinear", "bicubic"] = "bilinear"  # Interpolation.
    low: float = -1.0  # Input value for a pixel of 0.
    high: float = 1.0  # Input value for a pixel of 255.

    def __post_init__(self) -> None:
        super().__post_init__()
        height, width, channels = self.image_shape
        check_valid(min(height, width) >= 1, "image_shape", self.image_shape, "positive")
        check_valid(channels in (1, 3), "channels", channels, "1 or 3")
        check_valid(self.low < self.high, "low", self.low, f"below high, {self.high}")


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """Random changes of training images (TF-slim's inception_preprocessing.py)."""

    # Train on a random crop, stretched to the image size, instead of the evaluation crop.
    crop: bool = True
    # Smallest and largest area of the random crop, as fractions of the image.
    area: tuple[float, float] = (0.05, 1.0)
    # Smallest and largest aspect ratio (width / height) of the random crop.
    ratio: tuple[float, float] = (0.75, 1.33)
    # Redraw crops that cover less than this fraction of the image (TF-slim's
    # min_object_covered). It overrides a smaller lower bound of --augment.area.
    min_covered: float = 0.1
    flip: bool = True  # Flip half of the images horizontally.
    color: bool = True  # Distort brightness, saturation, hue and contrast.

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.area
        check_valid(0 < low <= high <= 1, "area", self.area, "in (0, 1], rising")
        limits = f"from 0 to the largest area, {high}"
        check_valid(0 <= self.min_covered <= high, "min_covered", self.min_covered, limits)
        check_valid(0 < self.ratio[0] <= self.ratio[1], "ratio", self.ratio, "> 0, rising")


@dataclass(frozen=True)
class HostsConfig(Checked):
    """The processes of a run; by default there is one."""

    # HOST:PORT of process 0, or auto, to let JAX detect it on Cloud TPU, GKE, SLURM or Open
    # MPI; None trains in one process.
    coordinator: str | None = None
    count: Count | None = None  # Number of processes; required with HOST:PORT.
    index: int | None = None  # Index of this process, from 0; required with HOST:PORT.
    # Time limit in seconds for each start, compilation, first step and save.
    start_timeout: Finite = 1800.0
    # Seconds without a heartbeat after which a process is considered dead.
    heartbeat_timeout: Count = 60
    # End the run after this many seconds without progress, or five times the longest wait
    # so far if that is longer.
    hang_timeout: Finite = 90.0

    def __post_init__(self) -> None:
        super().__post_init__()
        count, index = self.count, self.index
        if self.coordinator is None or self.coordinator == "auto":
            unset = count is None and index is None
            check_valid(unset, "count and index", (count, index), "None without HOST:PORT")
            return
        host, _, port = self.coordinator.rpartition(":")
        valid = bool(host) and port.isdecimal()
        check_valid(valid, "coordinator", self.coordinator, "HOST:PORT")
        if count is None or index is None:
            raise ValueError("count and index must be given with a coordinator HOST:PORT.")
        check_valid(0 <= index < count, "index", index, f"from 0 to {count - 1}")


@dataclass(frozen=True)
class AblationConfig(Checked):
    """Changes to residual networks; sources in `models.residual.ResidualOptions`."""

    # Initialiser of convolutions with batch norm; None uses the published one.
    kernel_init: Literal["glorot", "he", "lecun", "stddev_0.1"] | None = None
    # Initialiser of the blocks' linear 1x1 convolutions; None uses the published one.
    residual_init: Literal["glorot", "he", "lecun", "stddev_0.1", "zeros"] | None = None
    # Trained factor on each block's residual, multiplied by --residual-scale: one number
    # per block, or one per channel.
    learned_scale: Literal["none", "scalar", "channel"] = "none"
    learned_scale_init: NonNegative = 1.0  # Initial value of that trained factor.
    residual_norm: bool = False  # Batch norm after the linear 1x1 convolution.
    # Activation after the residual sum; pre applies ReLU before the branches, and after the
    # sum only in the last block of a grid.
    activation: Literal["relu", "leaky_relu", "pre"] = "relu"
    # Additional batch norm before the average pool.
    pool_norm: Literal["none", "before_relu", "after_relu"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        start = self.learned_scale_init
        valid = start == 1 or self.learned_scale != "none"
        check_valid(valid, "learned_scale_init", start, "1.0 without a learned_scale")


@dataclass(frozen=True)
class RunConfig(Checked):
    """A training run: the network, its data, and everything that decides the outcome."""

    network: str = "inception_v4"  # Name of a network; `inception-jax networks` lists them.
    data: str = "imagenet2012"  # Data: a TFDS name, folder:DIR, digits or synthetic.
    train_split: str = "train"  # Split to train on, or a part of one, such as train[:99%].
    eval_split: str = "eval"  # Split to evaluate on, or a part of one.
    data_dir: str | None = None  # Folder of prepared data sets; None uses TFDS's default.
    workdir: Path = Path("runs/run")  # Folder for everything that the run writes.
    # Height and width of the images in pixels; None uses the network's own, usually 299.
    image_size: Count | None = None
    # Fraction of height and width in the evaluation crop; TF-slim's value.
    crop_fraction: UpToOne = 0.875
    # Stretch the crop to a square, as TF-slim does, or keep the image's aspect ratio by
    # cropping a square, as timm does.
    aspect: Literal["stretch", "keep"] = "stretch"
    # Interpolation for resizing images.
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    pixel_range: tuple[float, float] = (-1.0, 1.0)  # Input values for pixels of 0 and 255.
    # Model folder, run folder or model name whose averaged weights the run starts from;
    # None starts from random weights. When resuming, repeat it; it is not read again.
    first_weights: str | None = None
    # Initial classifier: new, with random weights, or kept, from --first-weights.
    head: Literal["new", "kept"] = "new"
    # Examples per step over all devices; TF-slim's 32 for each of the paper's 20 GPUs.
    batch_size: Count = 640
    epochs: Finite = 160.0  # Passes over the training set; Figs 23 to 26 show 160.
    steps: Count | None = None  # Length of the run in steps; overrides epochs.
    # Split a device's share of the batch into this many parts, to save memory.
    accumulate: Count = 1
    # Recompute blocks in the backward pass: less memory, a third more operations.
    remat: bool = False
    # Use the fused layers; --no-fast uses stock Flax. Results agree up to rounding.
    fast: bool = True
    # Type of the computation; parameters and moving averages stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Seed of the initial weights, the order of the data, augmentation and dropout.
    seed: Seed = 0
    bn_scale: bool = False  # Train the scale (gamma) of batch norm; TF-slim does not.
    # Decay of batch norm's moving averages; None uses the network's own, usually 0.9997.
    bn_decay: BelowOne | None = None
    # Use the moving averages of batch norm in training too, and do not update them.
    bn_frozen: bool = False
    # Dropout rate before the classifier; None uses the network's own, usually 0.2.
    dropout_rate: BelowOne | None = None
    # Train with TF-slim's auxiliary classifier; requires 299-pixel images.
    aux_head: bool = False
    # Factor on every residual; None uses the published values.
    residual_scale: UnitInterval | None = None
    # Epochs between evaluations on the whole evaluation split.
    eval_every: Finite = 1.0
    # Stop after this many evaluations without improvement; None never stops early.
    patience: Count | None = None
    # Epochs between checkpoints; the last step is always saved.
    checkpoint_every: Finite = 1.0
    keep_checkpoints: Count = 3  # Number of newest checkpoints to keep.
    log_every: Count = 50  # Steps between log lines.
    # Steps between probes of the network's signals (section 3.3); None disables them.
    probe_every: Count | None = None
    # Number of probe images, the first of the evaluation split; they form one batch.
    probe_images: Count = 1024
    # On a NaN or infinite loss or gradient: abort the run, or record it and go on.
    on_nonfinite: Literal["abort", "record"] = "abort"
    # On an unreadable image: error ends the run; skip reports it and goes on without it.
    on_bad_image: Literal["error", "skip"] = "error"
    # Worker processes that decode images; 0 uses threads. In Docker, raise --shm-size.
    workers: Natural = 0
    wandb: str | None = None  # Weights & Biases project to log to as well.

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.pixel_range
        check_valid(low < high, "pixel_range", self.pixel_range, "rising")
