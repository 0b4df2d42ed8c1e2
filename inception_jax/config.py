# SPDX-License-Identifier: Apache-2.0
"""What can be chosen about training: frozen dataclasses that check their own values.

Defaults are the paper's section 4 where it gives a number, and slim's where it does not;
the source stands beside each.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer, its schedule, and what is done to gradients and weights around it."""

    # "rmsprop" is TensorFlow 1's, section 4's best; "momentum" the early experiments'.
    kind: Literal["rmsprop", "momentum"] = "rmsprop"
    learning_rate: float = 0.045  # section 4
    decay_rate: float = 0.94  # section 4: "using an exponential rate of 0.94"
    epochs_per_decay: float = 2.0  # section 4: "decayed every two epochs"
    momentum: float = 0.9  # section 4 for momentum; slim's flag for rmsprop
    rms_decay: float = 0.9  # section 4
    epsilon: float = 1.0  # section 4
    # On kernels only. slim: weight_decay=0.00004; the paper is silent.
    weight_decay: float = 4e-5
    # Global norm; the AAAI version finds clipping "useful" and gives no threshold.
    clip_norm: float | None = None
    # Section 3.3 tried a first phase at 0.00001 ("constant"); "linear" rises from there.
    warmup: Literal["constant", "linear"] = "constant"
    warmup_steps: int = 0
    warmup_rate: float = 1e-5
    # Factors on the learning rate of the classifier, and of the linear 1x1 convolutions
    # that end the residual blocks; for ablations.
    classifier_rate: float = 1.0
    linear_rate: float = 1.0
    # Likewise of the body, which is all but the classifiers; 0 leaves it as it is.
    body_rate: float = 1.0
    # Section 4 evaluates "a running average of the parameters"; 0.9999 is facenet's.
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        kinds = ("rmsprop", "momentum")
        _require(self.kind in kinds, "kind", self.kind, "rmsprop or momentum")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "> 0")
        _require(0 < self.decay_rate <= 1, "decay_rate", self.decay_rate, "in (0, 1]")
        _require(
            self.epochs_per_decay > 0, "epochs_per_decay", self.epochs_per_decay, "> 0"
        )
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        _require(0 <= self.rms_decay < 1, "rms_decay", self.rms_decay, "in [0, 1)")
        _require(self.epsilon > 0, "epsilon", self.epsilon, "> 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, ">= 0")
        if self.clip_norm is not None:
            _require(self.clip_norm > 0, "clip_norm", self.clip_norm, "> 0 or None")
        phases = ("constant", "linear")
        _require(self.warmup in phases, "warmup", self.warmup, "constant or linear")
        rates = ("warmup_rate", "classifier_rate", "linear_rate", "body_rate")
        for name in ("warmup_steps", *rates):
            _require(getattr(self, name) >= 0, name, getattr(self, name), ">= 0")
        _require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")


@dataclass(frozen=True)
class LossConfig:
    """What is minimised besides the cross-entropy of the main classifier."""

    # The paper is silent; slim's flag defaults to 0, Inception-v3's paper uses 0.1.
    label_smoothing: float = 0.0
    aux_weight: float = 0.4  # slim/train_image_classifier.py; used with aux_head=True

    def __post_init__(self) -> None:
        _require(
            0 <= self.label_smoothing < 1,
            "label_smoothing",
            self.label_smoothing,
            "in [0, 1)",
        )
        _require(self.aux_weight >= 0, "aux_weight", self.aux_weight, ">= 0")


@dataclass(frozen=True)
class ParallelConfig:
    """How a step is spread over devices.

    `bn_sync` decides whose batch statistics a replica uses: "none", its own, like the
    paper's 20 replicas of one GPU each; a number k, those of groups of k neighbouring
    devices; "global", those of the whole batch.
    """

    wrapper: Literal["pmap", "shard_map"] = "pmap"
    bn_sync: Literal["none", "global"] | int = "none"

    def __post_init__(self) -> None:
        _require(
            self.wrapper in ("pmap", "shard_map"),
            "wrapper",
            self.wrapper,
            "pmap or shard_map",
        )
        _require(
            self.bn_sync in ("none", "global")
            or (isinstance(self.bn_sync, int) and self.bn_sync > 1),
            "bn_sync",
            self.bn_sync,
            "none, global or a group size of 2 or more",
        )


@dataclass(frozen=True)
class PreprocessSpec:
    """How an image becomes the input of a network: one for training, evaluation and use.

    It is stored with the weights. The defaults are slim's for the paper's networks: the
    central 87.5 % of both sides, stretched to `image_shape`, bilinear, in [-1, 1].
    """

    image_shape: tuple[int, int, int] = (299, 299, 3)  # height, width, channels
    crop_fraction: float = 0.875  # slim/preprocessing/inception_preprocessing.py
    # "stretch": that share of both sides, whatever the aspect, as slim; "keep": the
    # shorter side is resized to size / crop_fraction and the centre cut out, as timm.
    aspect: Literal["stretch", "keep"] = "stretch"
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    low: float = -1.0  # what a pixel of 0 becomes
    high: float = 1.0  # what a pixel of 255 becomes

    def __post_init__(self) -> None:
        height, width, channels = self.image_shape
        _require(min(height, width) >= 1, "image_shape", self.image_shape, "positive")
        _require(channels in (1, 3), "channels", channels, "1 or 3")
        _require(
            0 < self.crop_fraction <= 1, "crop_fraction", self.crop_fraction, "in (0, 1]"
        )
        _require(
            self.aspect in ("stretch", "keep"), "aspect", self.aspect, "stretch or keep"
        )
        _require(
            self.resize in ("bilinear", "bicubic"),
            "resize",
            self.resize,
            "bilinear or bicubic",
        )
        _require(self.low < self.high, "low", self.low, f"below high, {self.high}")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images: those of the paper's code, each can be left out.

    Source: slim/preprocessing/inception_preprocessing.py, preprocess_for_train.
    """

    crop: bool = True  # a random box of the image, stretched; otherwise as in evaluation
    area: tuple[float, float] = (0.05, 1.0)  # share of the image that is drawn as a box
    ratio: tuple[float, float] = (0.75, 1.33)  # width / height of the box
    # slim's min_object_covered. Its trainer takes the whole image for the object, so that
    # a box below this share is drawn again, and the 0.05 above is never reached.
    min_covered: float = 0.1
    flip: bool = True  # left and right, half of the time
    color: bool = True  # brightness, saturation, hue and contrast

    def __post_init__(self) -> None:
        low, high = self.area
        _require(0 < low <= high <= 1, "area", self.area, "in (0, 1], rising")
        _require(
            0 <= self.min_covered <= high,
            "min_covered",
            self.min_covered,
            f"from 0 to the largest area, {high}",
        )
        _require(0 < self.ratio[0] <= self.ratio[1], "ratio", self.ratio, "> 0, rising")


@dataclass(frozen=True)
class HostsConfig:
    """The processes of a run; the default is a run of one process."""

    # Where process 0 listens, HOST:PORT; auto: JAX finds out (Cloud TPU, GKE, SLURM, MPI).
    coordinator: str | None = None
    # Number of processes, and which of them this one is; with HOST:PORT.
    count: int | None = None
    index: int | None = None
    # Seconds for all processes to start, for a compilation, and for the first update.
    start_timeout: float = 1800.0
    # Seconds without a sign of life after which a process counts as dead.
    heartbeat_timeout: int = 60
    # Seconds without progress that end the run; five times the longest wait so far if that
    # is more.
    hang_timeout: float = 90.0

    def __post_init__(self) -> None:
        for name in ("start_timeout", "heartbeat_timeout", "hang_timeout"):
            value = getattr(self, name)
            _require(0 < value < float("inf"), name, value, "> 0")
        given = (self.count, self.index)
        if self.coordinator is None or self.coordinator == "auto":
            why = "None unless coordinator is HOST:PORT"
            _require(given == (None, None), "count and index", given, why)
            return
        host, _, port = self.coordinator.rpartition(":")
        _require(
            bool(host) and port.isdecimal(), "coordinator", self.coordinator, "HOST:PORT"
        )
        _require(None not in given, "count and index", given, "given with a coordinator")
        _require(self.count >= 1, "count", self.count, "1 or more")
        _require(
            0 <= self.index < self.count, "index", self.index, f"from 0 to {self.count - 1}"
        )


@dataclass(frozen=True)
class AblationConfig:
    """Changes to a network with residual blocks; the defaults change nothing.

    See `inception_jax.models.residual.ResidualOptions` for sources.
    """

    # Of all convolutions with batch norm; default: as published.
    kernel_init: Literal["glorot", "he", "lecun", "stddev_0.1"] | None = None
    # Of the linear 1x1 that end the residuals; default: as published.
    residual_init: Literal["glorot", "he", "lecun", "stddev_0.1", "zeros"] | None = None
    # A trained factor on every residual, on top of residual_scale.
    learned_scale: Literal["none", "scalar", "channel"] = "none"
    # What that factor starts with.
    learned_scale_init: float = 1.0
    # Batch norm after the linear 1x1.
    residual_norm: bool = False
    # Of the residual sums; "pre": before the branches instead.
    activation: Literal["relu", "leaky_relu", "pre"] = "relu"
    # Extra batch norm before the average pool.
    pool_norm: Literal["none", "before_relu", "after_relu"] = "none"

    def __post_init__(self) -> None:
        initializers = (None, "glorot", "he", "lecun", "stddev_0.1")
        for name, known in (
            ("kernel_init", initializers),
            ("residual_init", (*initializers, "zeros")),
            ("learned_scale", ("none", "scalar", "channel")),
            ("activation", ("relu", "leaky_relu", "pre")),
            ("pool_norm", ("none", "before_relu", "after_relu")),
        ):
            value = getattr(self, name)
            _require(value in known, name, value, " or ".join(map(str, known)))
        start = self.learned_scale_init
        _require(0 <= start < float("inf"), "learned_scale_init", start, "0 or more")
        _require(
            start == 1 or self.learned_scale != "none",
            "learned_scale_init",
            start,
            "1.0 without a learned_scale",
        )


@dataclass(frozen=True)
class RunConfig:
    """One training run: a network, its data, and everything that decides the outcome."""

    # A name of `inception-jax networks`.
    network: str = "inception_v4"
    # TFDS name, folder:DIR, digits or synthetic.
    data: str = "imagenet2012"
    # Split to train on, or a part of one, such as train[:99%].
    train_split: str = "train"
    # Split to evaluate on, likewise.
    eval_split: str = "eval"
    # Folder of prepared data sets; default: TFDS's own.
    data_dir: str | None = None
    # Folder for everything the run writes.
    workdir: Path = Path("runs/run")
    # Height and width of the images; default: the network's own, 299.
    image_size: int | None = None
    # Share of both sides that evaluation sees; slim's.
    crop_fraction: float = 0.875
    # Stretched, as slim, or with the aspect kept, as timm: see PreprocessSpec.
    aspect: Literal["stretch", "keep"] = "stretch"
    # Kernel for resizing.
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    # What pixels of 0 and of 255 become.
    pixel_range: tuple[float, float] = (-1.0, 1.0)
    # Model folder, run or name (see inception_jax.load) whose averaged weights are the
    # first; default: random ones. It is needed until there is a checkpoint.
    first_weights: str | None = None
    # Classifier for the classes of the data: random, or the one of first_weights.
    head: Literal["new", "kept"] = "new"
    # Examples per update, over all devices. The paper's 20 replicas of slim's 32.
    batch_size: int = 640
    # Times the training set is seen; Figs 23 to 26 go to 160.
    epochs: float = 160.0
    # Updates, instead of epochs.
    steps: int | None = None
    # Parts of a device's share that are gone through one after another, to save memory.
    accumulate: int = 1
    # Blocks are computed again for their gradients: a third to half of the temporary memory
    # on a TPU, a third more operations, and the same update but for rounding.
    remat: bool = False
    # Of the computation; parameters and batch statistics stay float32.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # Of the weights, the order of the data, augmentation and dropout.
    seed: int = 0
    # Batch norm with gamma; slim trains without.
    bn_scale: bool = False
    # Share of the moving averages kept; default: as published, 0.9997.
    bn_decay: float | None = None
    # Moving averages in training as well, which stay as they are.
    bn_frozen: bool = False
    # Default: as published, 0.2.
    dropout_rate: float | None = None
    # slim's auxiliary classifier, in training only; needs 299 pixels.
    aux_head: bool = False
    # Factor on every residual; default: as published.
    residual_scale: float | None = None
    # Epochs between evaluations of the whole evaluation split.
    eval_every: float = 1.0
    # Evaluations without a better one of the averaged weights, after which the run is over.
    patience: int | None = None
    # Epochs between checkpoints; there is always one at the end.
    checkpoint_every: float = 1.0
    # Newest checkpoints to keep.
    keep_checkpoints: int = 3
    # Updates between two lines of metrics.jsonl.
    log_every: int = 50
    # Updates between two probes of the signals of section 3.3; default: none.
    probe_every: int | None = None
    # Images of a probe, all in one batch: the first of the evaluation split.
    probe_images: int = 1024
    # A loss or gradient that is no number ends the run, or is put on record.
    on_nonfinite: Literal["abort", "record"] = "abort"
    # An image that cannot be read ends the run, or is replaced and put on record.
    on_bad_image: Literal["error", "skip"] = "error"
    # Processes that read and decode (Docker: see --shm-size); 0: threads of this one.
    workers: int = 0
    # Project of Weights & Biases to log to as well.
    wandb: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    hosts: HostsConfig = field(default_factory=HostsConfig)
    ablation: AblationConfig = field(default_factory=AblationConfig)

    def __post_init__(self) -> None:
        counts = ("batch_size", "accumulate", "keep_checkpoints", "log_every")
        optional = ("steps", "image_size", "patience", "probe_every", "probe_images")
        for name in (*counts, *optional):
            if (value := getattr(self, name)) is not None:
                _require(value >= 1, name, value, "1 or more")
        for name in ("epochs", "eval_every", "checkpoint_every"):
            value = getattr(self, name)
            _require(0 < value < float("inf"), name, value, "> 0")
        _require(self.workers >= 0, "workers", self.workers, "0 or more")
        _require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2**31 - 1")
        for name in ("bn_decay", "dropout_rate"):
            value = getattr(self, name)
            if value is not None:
                _require(0 <= value < 1, name, value, "in [0, 1)")
        if self.residual_scale is not None:
            scale = self.residual_scale
            _require(0 <= scale <= 1, "residual_scale", scale, "in [0, 1]")
        for name, known in (
            ("aspect", ("stretch", "keep")),
            ("resize", ("bilinear", "bicubic")),
            ("head", ("new", "kept")),
            ("dtype", ("float32", "bfloat16")),
            ("on_nonfinite", ("abort", "record")),
            ("on_bad_image", ("error", "skip")),
        ):
            value = getattr(self, name)
            _require(value in known, name, value, " or ".join(known))
        low, high = self.pixel_range
        _require(low < high, "pixel_range", self.pixel_range, "rising")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {expected}, got {value!r}.")
