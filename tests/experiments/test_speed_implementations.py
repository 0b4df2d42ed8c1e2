# SPDX-License-Identifier: Apache-2.0
"""All implementations do equal work: networks, losses, optimizer and parameters."""

import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial

import jax
import numpy as np
import pytest

from experiments.speed import __main__ as speed
from experiments.speed.case import CLASSES, OPTIMIZER, Case
from experiments.speed.implementations import ours, plain
from inception_jax.config import OptimizerConfig
from inception_jax.models.network import create
from inception_jax.models.zoo import SPECS
from tests.models.tiny import one_block, three_grids


@pytest.fixture
def tiny_case(monkeypatch):
    spec = replace(one_block(), image_shape=(8, 8, 3), dropout_rate=0.2)
    monkeypatch.setitem(SPECS, "tiny", spec)
    return Case("tiny", "training", 4, 8, "float32")


def test_ours_and_plain_learn_the_same(tiny_case):
    fast, slow = ours.build(tiny_case), plain.build(tiny_case)
    assert fast.parameters == slow.parameters
    losses = [[float(x.run(n)["loss_sum"]) for n in (1, 2)] for x in (fast, slow)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    assert losses[0][0] != losses[0][1]  # the parameters were updated
    assert np.isfinite(losses).all()


def test_ours_and_plain_infer_the_same(tiny_case):
    case = replace(tiny_case, task="inference")
    logits = [module.build(case).run(1) for module in (ours, plain)]
    assert logits[0].shape == (4, CLASSES)
    assert np.ptp(logits[0]) > 0
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_plain_does_not_fold_batch_norm(tiny_case, monkeypatch):
    monkeypatch.delattr(ours, "fold_variables")
    case = replace(tiny_case, task="inference")
    assert plain.build(case).run(1).shape == (4, CLASSES)
    with pytest.raises(NameError):
        ours.build(case)


def count_multiplications(jaxpr) -> tuple[int, int]:
    """Return the number of convolutions and of matrix multiplications in a trace."""
    counts = np.zeros(2, int)
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        counts += (name == "conv_general_dilated", name == "dot_general")
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                counts += count_multiplications(inner)
    return tuple(counts.tolist())


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in speed.Options().networks]


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("spec", [three_grids(), *SLOW])
def test_plain_has_one_convolution_for_each_kernel(spec, train):
    network = create(spec)
    images = jax.ShapeDtypeStruct((1, *network.spec.image_shape), np.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    kernels = sum(x.ndim == 4 for x in jax.tree.leaves(variables["params"]))

    def apply(fast, variables, images):
        network = create(spec, fast=fast)
        rngs = {"dropout": jax.random.key(0)}
        mutable = ["batch_stats"]
        return network.apply(variables, images, train=train, mutable=mutable, rngs=rngs)

    trace = jax.make_jaxpr(partial(apply, False))(variables, images)
    assert count_multiplications(trace.jaxpr) == (kernels, 1)
    fast = jax.make_jaxpr(partial(apply, True))(variables, images)
    assert count_multiplications(fast.jaxpr) != (kernels, 1)


def test_the_optimizer_is_that_of_a_default_run():
    config = OptimizerConfig()
    assert config.kind == "rmsprop"
    for name, value in asdict(OPTIMIZER).items():
        assert getattr(config, name) == value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "network", "gamma"),
    [
        ("timm", "inception_v4", True),
        ("timm", "inception_resnet_v2", True),
        ("keras", "inception_resnet_v2", False),
    ],
)
def test_other_libraries_have_as_many_parameters(library, network, gamma):
    pytest.importorskip(library, reason=f"{library} is in the extra bench")
    program = (
        "from experiments.speed.case import Case\n"
        f"from experiments.speed.implementations.{library} import build\n"
        f"case = Case({network!r}, 'inference', 1, 75, 'float32')\n"
        "print(build(case).parameters)"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    module = create(network, num_classes=CLASSES, bn_scale=gamma)
    images = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    expected = sum(x.size for x in jax.tree.leaves(params))
    assert int(completed.stdout.split()[-1]) == expected
