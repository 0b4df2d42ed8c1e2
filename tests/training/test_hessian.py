# SPDX-License-Identifier: Apache-2.0
"""The largest eigenvalue against those of the dense Hessian of the same loss."""

import sys
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import inception_jax
from inception_jax.config import PreprocessSpec
from inception_jax.models.inputs import block_scales
from inception_jax.models.width import with_width
from inception_jax.training.diagnostics import classifier_curvature
from inception_jax.training.hessian import largest_hessian_eigenvalue
from tests.models.tiny import one_block, random_variables, three_grids

SPECS = {"one": with_width(one_block(), 0.25), "three": with_width(three_grids(), 0.25)}
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 10, 16, np.int32)


class Case(NamedTuple):
    """A network of a few hundred parameters, its variables and a batch."""

    network: inception_jax.Network
    variables: dict
    batch: dict
    preprocess: PreprocessSpec

    def largest(self, variables: dict | None = None, *scale: object, **options) -> float:
        return largest_hessian_eigenvalue(
            self.network,
            variables or self.variables,
            self.batch,
            *scale,
            preprocess=self.preprocess,
            **options,
        )

    def with_classifier(self, gain: float, **changes: jax.Array) -> dict:
        """Return variables with `gain` times the classifier's kernel."""
        params = self.variables["params"]
        classifier = {**params["Logits"], "kernel": gain * params["Logits"]["kernel"]}
        return {
            **self.variables,
            "params": {**params, "Logits": classifier | changes},
        }


@cache
def case(name: str) -> Case:
    """Return a network with everything that the measurement has to leave out."""
    spec = SPECS[name]
    network = inception_jax.create(
        spec, dropout_rate=0.5, bn_axis_name="devices", dtype=jnp.bfloat16
    )
    images = RNG.integers(0, 256, (16, *spec.image_shape), np.uint8)
    return Case(
        network,
        random_variables(network, jnp.zeros((1, *spec.image_shape))),
        {"image": jnp.asarray(images), "label": jnp.asarray(LABELS)},
        PreprocessSpec(spec.image_shape, low=-2.0, high=1.0),
    )


@cache
def dense(name: str):
    """Return a jitted function of variables and scale: Hessian, features and logits."""
    network = inception_jax.create(SPECS[name], dropout_rate=0.0, fast=False)
    images = np.asarray(case(name).batch["image"], np.float32) / 255 * 3 - 2

    def loss(flat, unravel, variables, scale):
        (logits, endpoints), _ = network.apply(
            {**variables, "params": unravel(flat)},
            images,
            scale,
            train=True,
            mutable=["batch_stats"],
        )
        log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), axis=1, keepdims=True))
        return -jnp.mean(log_p[jnp.arange(16), LABELS]), (endpoints, logits)

    @jax.jit
    def hessian(variables, scale):
        flat, unravel = ravel_pytree(variables["params"])
        matrix, (endpoints, logits) = jax.hessian(loss, has_aux=True)(
            flat, unravel, variables, scale
        )
        return matrix, endpoints["PreLogitsFlatten"], logits

    return hessian


@pytest.mark.parametrize(
    ("name", "gain", "scale", "is_dominant"),
    [
        ("one", 0.0, 0.5, True),
        ("one", 10.0, 0.5, True),
        ("one", 1.0, 1.0, True),
        # The negative eigenvalues are the larger ones.
        ("one", 1.0, 0.5, False),
        pytest.param("three", 1.0, 0.5, True, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_largest_of_the_dense_hessian(name, gain, scale, is_dominant):
    variables = case(name).with_classifier(gain)
    hessian, features, logits = dense(name)(variables, scale)
    hessian = np.asarray(hessian, float)
    eigenvalues = np.linalg.eigvalsh((hessian + hessian.T) / 2)
    assert (eigenvalues[-1] > -eigenvalues[0]) == is_dominant
    result = case(name).largest(variables, scale)
    assert result == pytest.approx(eigenvalues[-1], rel=1e-3)
    # The classifier's block is a part of the Hessian, and gives a lower bound.
    block = float(classifier_curvature(features, logits))
    assert 0 < block < 1.001 * result


def test_a_network_is_compiled_once(compilations):
    one = case("one")
    scales = (None, 0.3, (0.2,))
    for scale in scales:
        block_scales(one.network.spec, scale)  # compiles small programs
    results = [one.largest()]
    variables = one.with_classifier(2.0)
    compilations.clear()
    results += [one.largest(variables, scale) for scale in scales]
    assert not compilations
    assert len(set(results)) == 4
    assert one.largest(None, one.network.spec.default_scales) == results[0]


def test_hessians_without_a_largest_eigenvalue():
    one = case("one")
    classes = jnp.arange(10) == 3
    certain = one.with_classifier(0.0, bias=jnp.where(classes, 1e4, 0.0))
    right = one._replace(batch=one.batch | {"label": jnp.full(16, 3)})
    assert right.largest(certain) == 0
    assert np.isnan(one.largest(one.with_classifier(np.nan)))


def test_a_result_that_has_not_converged():
    with pytest.raises(RuntimeError, match="not converged to 1e-07 after 1 iterations; "):
        case("one").largest(None, 0.5, iterations=1, tolerance=1e-7)


def test_what_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"residual_scale must lie in \[0, 1\], got 2.0"):
        case("one").largest(None, 2.0)
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r"linalg is missing: .*inception_jax\[study\]"):
        case("one").largest()
