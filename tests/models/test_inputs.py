# SPDX-License-Identifier: Apache-2.0
"""Invalid input raises an error of one sentence with the value and what to do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import inception_jax
from inception_jax.models.inputs import block_scales
from tests.models.tiny import one_block, random_variables

RESIDUAL = [name for name, spec in inception_jax.SPECS.items() if spec.default_scales]
SMALL = "inception_resnet_small"


def trace(name: str, shape=None, dtype=jnp.float32, scale=None, **options):
    """Return the shapes of the result of `init`, without computing it."""
    network = inception_jax.create(name, **options)
    images = jax.ShapeDtypeStruct(shape or (1, *network.spec.image_shape), dtype)
    return jax.eval_shape(
        lambda images: network.init_with_output(jax.random.key(0), images, scale), images
    )


def check_sentence(error: pytest.ExceptionInfo, *parts: str) -> None:
    message = str(error.value)
    assert re.fullmatch(r"[^\n]+\.", message), message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("size", [(74, 299), (299, 74), (1, 1)])
@pytest.mark.parametrize(
    "name", ["inception_v3", "inception_v4", "inception_resnet_v1_facenet"]
)
def test_images_below_75_pixels(name, size):
    with pytest.raises(ValueError, match="at least 75x75 pixels") as error:
        trace(name, (1, *size, 3))
    check_sentence(error, f"got {size[0]}x{size[1]}", "resize")


def test_images_below_8_pixels_for_the_small_network():
    with pytest.raises(ValueError, match="at least 8x8 pixels") as error:
        trace(SMALL, (1, 8, 7, 1))
    check_sentence(error, "got 8x7", "resize")


@pytest.mark.parametrize("shape", [(1, 299, 299, 1), (1, 299, 299, 4), (1, 3, 299, 299)])
def test_wrong_number_of_channels(shape):
    with pytest.raises(ValueError, match=r"3 channel\(s\) in the last axis") as error:
        trace("inception_resnet_v2", shape)
    check_sentence(error, f"got shape {shape}", "channels-first arrays need a transpose")


@pytest.mark.parametrize("shape", [(299, 299, 3), (1, 1, 299, 299, 3)])
def test_images_without_or_with_two_batch_axes(shape):
    with pytest.raises(ValueError, match=r"\[n, height, width, channels\]") as error:
        trace("inception_v4", shape)
    check_sentence(error, f"got shape {shape}")


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool_])
def test_images_that_are_not_floating(dtype):
    with pytest.raises(TypeError, match="floating-point and scaled to") as error:
        trace("inception_v4", dtype=dtype)
    check_sentence(error, f"got {jnp.dtype(dtype)}", "[-1, 1]", "x / 127.5 - 1")


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_images_of_half_precision_are_accepted(dtype):
    (logits, _), _ = trace(SMALL, dtype=dtype)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("scale", [0, 1, np.array(1), np.ones(3, np.int32)], ids=repr)
def test_scale_that_is_not_floating(scale):
    with pytest.raises(TypeError, match="residual_scale must be floating-point") as error:
        trace("inception_resnet_v2", scale=scale)
    check_sentence(error, "got int", "write 1.0 for 1")


@pytest.mark.parametrize(
    "scale",
    [-0.1, 1.5, float("nan"), float("inf"), (0.1, 0.2, 1.01), np.array([0.1, -1, 0.1])],
    ids=repr,
)
def test_scale_out_of_range(scale):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]") as error:
        trace("inception_resnet_v1", scale=scale)
    check_sentence(error, f"got {scale}", "0.1 to 0.3")


@pytest.mark.parametrize("shape", [(1,), (4,), (39,), (41,), (1, 1), (3, 1)])
def test_scale_of_a_wrong_shape(shape):
    scale = jnp.full(shape, 0.1)
    with pytest.raises(ValueError, match="must be one number, 3 ") as error:
        trace("inception_resnet_v2", scale=scale)
    check_sentence(error, "3 (one per grid)", "40 (one per block)", f"got shape {shape}")


def test_traced_scale_of_a_wrong_shape_or_type():
    def traced(scale):
        return jax.eval_shape(lambda s: trace("inception_resnet_v2", scale=s), scale)

    with pytest.raises(ValueError, match=r"got shape \(4,\)"):
        traced(jnp.full(4, 0.1))
    with pytest.raises(TypeError, match="got int32"):
        traced(jnp.ones(3, jnp.int32))


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4"])
@pytest.mark.parametrize("scale", [0.1, 1.0, (0.1, 0.1, 0.1)])
def test_scale_for_a_network_without_residuals(name, scale):
    with pytest.raises(ValueError, match="no residual blocks") as error:
        trace(name, scale=scale)
    check_sentence(error, f"residual_scale={scale}", "leave it out")


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_limits_of_the_range_are_accepted(name, scale):
    spec = inception_jax.SPECS[name]
    scales = block_scales(spec, scale)
    assert scales.shape == (len(spec.default_scales),)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("inception_resnet-v2", "inception_resnet_v2"),
        ("incepton_v4", "inception_v4"),
        ("facenet", None),
    ],
)
def test_unknown_network(typed, meant):
    with pytest.raises(ValueError, match="no network") as error:
        inception_jax.create(typed)
    check_sentence(error, repr(typed), *inception_jax.list_networks())
    assert (f"did you mean {meant}?" in str(error.value)) == bool(meant)


def test_negative_number_of_classes():
    with pytest.raises(ValueError, match="num_classes must be 0") as error:
        inception_jax.create("inception_v4", num_classes=-1)
    check_sentence(error, "no classifier", "got -1")


@pytest.mark.parametrize("field", ["dropout_rate", "bn_decay"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 80.0, float("nan")])
def test_fractions_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be in \[0, 1\)") as error:
        inception_jax.create("inception_v4", **{field: value})
    check_sentence(error, f"got {value}")


def test_numpy_images_are_accepted():
    network = inception_jax.create(one_block())
    images = np.zeros((2, 8, 8, 1), np.float32)
    logits, _ = network.apply(random_variables(network, images), images)
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "options"), [(SMALL, {}), ("inception_v4", {"num_classes": 0})]
)
def test_aux_head_on_an_unsuitable_network(name, options):
    with pytest.raises(ValueError, match="aux_head=True needs") as error:
        inception_jax.create(name, aux_head=True, **options)
    check_sentence(error, "17x17 grid", "num_classes > 0", "leave it out")


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4", "inception_resnet_v2"])
def test_aux_head_at_another_image_size(name):
    with pytest.raises(ValueError, match="needs a 17x17 feature map") as error:
        trace(name, (1, 150, 150, 3), aux_head=True)
    check_sentence(error, "got 7x7", "299x299 images", "aux_head=False")
