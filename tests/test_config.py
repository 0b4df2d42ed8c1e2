# SPDX-License-Identifier: Apache-2.0
"""An invalid setting raises ValueError with the value and what is expected."""

import inspect
import re
import runpy
from dataclasses import asdict
from typing import get_args, get_type_hints

import pytest

from inception_jax import config
from inception_jax.models.ablation import ablated
from inception_jax.models.residual import ResidualOptions
from inception_jax.models.spec import INITIALIZERS, NetworkSpec

# The module without the run-time type checks of the tests, as users get it.
PLAIN = runpy.run_path(config.__file__)
NAN = float("nan")
RATES = ("warmup_rate", "classifier_rate", "linear_rate", "body_rate")

INVALID = [
    *(("OptimizerConfig", "learning_rate", bad, "> 0") for bad in (0.0, -0.1, NAN)),
    *(("OptimizerConfig", "decay_rate", bad, "in (0, 1]") for bad in (0.0, 1.1, NAN)),
    *(("OptimizerConfig", "epochs_per_decay", bad, "> 0") for bad in (0.0, -2.0, NAN)),
    *(("OptimizerConfig", "momentum", bad, "in [0, 1)") for bad in (-0.1, 1.0, NAN)),
    *(("OptimizerConfig", "rms_decay", bad, "in [0, 1)") for bad in (-0.1, 1.0, NAN)),
    *(("OptimizerConfig", "epsilon", bad, "> 0") for bad in (0.0, -1.0, NAN)),
    *(("OptimizerConfig", "weight_decay", bad, "finite and >= 0") for bad in (-1e-5, NAN)),
    *(("OptimizerConfig", "clip_norm", bad, "> 0") for bad in (0.0, -1.0, NAN)),
    *(("OptimizerConfig", "ema_decay", bad, "in [0, 1)") for bad in (-0.1, 1.0, NAN)),
    *(("OptimizerConfig", "kind", bad, "rmsprop or momentum") for bad in ("adam", None)),
    *(("OptimizerConfig", "warmup", bad, "constant or linear") for bad in ("cosine", None)),
    *(
        ("OptimizerConfig", name, bad, "finite and >= 0")
        for name in RATES
        for bad in (-1, NAN)
    ),
    *(("OptimizerConfig", "warmup_steps", bad, "0 or more") for bad in (-1, NAN)),
    *(("LossConfig", "label_smoothing", bad, "in [0, 1)") for bad in (-0.1, 1.0, NAN)),
    *(("LossConfig", "aux_weight", bad, "finite and >= 0") for bad in (-0.4, NAN)),
    *(("ParallelConfig", "wrapper", bad, "pmap or shard_map") for bad in ("jit", None)),
    *(
        ("ParallelConfig", "bn_sync", bad, "none, global or a group size of 2 or more")
        for bad in (0, 1, -2, True, 2.0, "2", "all", None)
    ),
    *(
        ("RunConfig", name, bad, "1 or more")
        for name in ("batch_size", "accumulate", "keep_checkpoints", "log_every")
        for bad in (0, -1)
    ),
    *(
        ("RunConfig", name, bad, "finite and > 0")
        for name in ("epochs", "eval_every", "checkpoint_every")
        for bad in (0.0, -1.0, NAN, float("inf"))
    ),
    *(
        ("RunConfig", name, 0, "1 or more")
        for name in ("steps", "image_size", "patience", "probe_every", "probe_images")
    ),
    ("RunConfig", "workers", -1, "0 or more"),
    *(("RunConfig", "seed", bad, "from 0 to 2**31 - 1") for bad in (-1, 2**31)),
    *(
        ("RunConfig", name, bad, "in [0, 1)")
        for name in ("bn_decay", "dropout_rate")
        for bad in (-0.1, 1.0, NAN)
    ),
    *(("RunConfig", "residual_scale", bad, "in [0, 1]") for bad in (-0.1, 1.1, NAN)),
    *(
        ("AblationConfig", name, bad, expected)
        for name, bad, expected in (
            ("kernel_init", "zeros", "None or glorot or he or lecun or stddev_0.1"),
            ("residual_init", "?", "None or glorot or he or lecun or stddev_0.1 or zeros"),
            ("learned_scale", None, "none or scalar or channel"),
            ("activation", "elu", "relu or leaky_relu or pre"),
            ("pool_norm", True, "none or before_relu or after_relu"),
        )
    ),
    *(
        ("AblationConfig", "learned_scale_init", bad, "finite and >= 0")
        for bad in (-0.1, NAN, float("inf"))
    ),
    ("AblationConfig", "learned_scale_init", 0.5, "1.0 without a learned_scale"),
    ("RunConfig", "dtype", "float16", "float32 or bfloat16"),
    ("RunConfig", "on_nonfinite", "ignore", "abort or record"),
    ("RunConfig", "on_bad_image", "ignore", "error or skip"),
    ("RunConfig", "aspect", "square", "stretch or keep"),
    ("RunConfig", "resize", "nearest", "bilinear or bicubic"),
    ("RunConfig", "head", "none", "new or kept"),
    *(
        ("RunConfig", "pixel_range", bad, "rising")
        for bad in ((1.0, 1.0), (1.0, -1.0), (NAN, 1.0))
    ),
]

VALID = [
    ("OptimizerConfig", {"decay_rate": 1.0, "momentum": 0.0, "rms_decay": 0.0}),
    ("OptimizerConfig", {"weight_decay": 0.0, "clip_norm": None, "ema_decay": 0.0}),
    ("OptimizerConfig", {"kind": "momentum", "clip_norm": 1.0}),
    ("OptimizerConfig", {"warmup": "linear", "warmup_steps": 0, "warmup_rate": 0.0}),
    ("OptimizerConfig", {"classifier_rate": 0.0, "linear_rate": 0.0}),
    ("OptimizerConfig", {"body_rate": 0.0}),
    ("RunConfig", {"patience": 1, "pixel_range": (0.0, 255.0)}),
    ("LossConfig", {"label_smoothing": 0.0, "aux_weight": 0.0}),
    ("ParallelConfig", {"wrapper": "shard_map", "bn_sync": "global"}),
    ("ParallelConfig", {"bn_sync": 2}),
    ("AblationConfig", {"learned_scale": "scalar", "learned_scale_init": 0.0}),
    ("AblationConfig", {"kernel_init": "stddev_0.1", "residual_init": "zeros"}),
    ("RunConfig", {"batch_size": 1, "steps": 1, "image_size": 1, "log_every": 1}),
    ("RunConfig", {"probe_every": 1, "probe_images": 1}),
    ("RunConfig", {"seed": 0, "bn_decay": 0.0, "dropout_rate": 0.0}),
    ("RunConfig", {"seed": 2**31 - 1, "residual_scale": 0.0, "workers": 0}),
    ("RunConfig", {"residual_scale": 1.0, "keep_checkpoints": 1, "accumulate": 1}),
]


@pytest.mark.parametrize(("name", "field", "value", "expected"), INVALID)
def test_invalid_value(name, field, value, expected):
    sentence = f"{field} must be {expected}, got {value!r}."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        PLAIN[name](**{field: value})


@pytest.mark.parametrize(("name", "options"), VALID)
def test_the_limits_of_ranges_are_valid(name, options):
    made = getattr(config, name)(**options)
    assert all(getattr(made, field) == value for field, value in options.items())


def test_defaults_are_the_paper_s():
    """The values of arXiv 1602.07261, section 4. The rest are the defaults of slim's
    train_image_classifier.py and facenet's moving_average_decay."""
    assert config.OptimizerConfig() == config.OptimizerConfig(
        kind="rmsprop",
        learning_rate=0.045,
        decay_rate=0.94,
        epochs_per_decay=2.0,
        momentum=0.9,
        rms_decay=0.9,
        epsilon=1.0,
        weight_decay=0.00004,
        clip_norm=None,
        warmup="constant",
        warmup_steps=0,
        warmup_rate=0.00001,  # section 3.3
        classifier_rate=1.0,
        linear_rate=1.0,
        body_rate=1.0,
        ema_decay=0.9999,
    )
    assert config.LossConfig() == config.LossConfig(label_smoothing=0.0, aux_weight=0.4)
    # Section 4: 20 replicas, each with its own batch statistics.
    assert config.ParallelConfig().bn_sync == "none"


def test_ablations_match_the_options_of_the_networks():
    """Names, defaults and choices match; kernels cannot be initialised with zeros."""
    options = inspect.signature(ablated).parameters
    known = {name: option.default for name, option in options.items() if name != "spec"}
    assert asdict(config.AblationConfig()) == known
    choices = get_type_hints(config.AblationConfig)
    for name, left_out in (("kernel_init", {"zeros"}), ("residual_init", set())):
        literal, _ = get_args(choices[name])
        assert set(get_args(literal)) == set(INITIALIZERS) - left_out
    for name in ("learned_scale", "activation"):
        assert choices[name] == get_type_hints(ResidualOptions)[name]
    assert choices["pool_norm"] == get_type_hints(NetworkSpec)["pool_norm"]


def test_configs_cannot_change():
    made = config.OptimizerConfig()
    with pytest.raises(AttributeError, match="cannot assign"):
        made.momentum = 0.5
