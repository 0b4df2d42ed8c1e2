# SPDX-License-Identifier: Apache-2.0
"""The list of runs that only a pod does, and the exit status of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

import inception_jax
from experiments.residual_scaling import imagenet
from inception_jax.models.spec import INITIALIZERS
from inception_jax.models.summary import summarise
from inception_jax.models.zoo import get_spec
from inception_jax.training import fit
from inception_jax.training.from_config import network_for


def test_runs_on_imagenet_are_listed_with_their_cost(capsys):
    assert imagenet.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1 : len(imagenet.RUNS) + 1]} == set(
        imagenet.RUNS
    )
    (unscaled,) = (line for line in lines if line.startswith("v1_unscaled"))
    operations, least, expected = map(float, unscaled.split()[-3:])
    # 6 operations for each of 6.2 G multiply-accumulates, 50,000 updates of 640 images.
    macs = summarise(inception_jax.create("inception_resnet_v1")).macs
    assert operations == pytest.approx(6 * macs * 50_000 * 640, rel=0.1)
    peak = 16 * 197e12 * 3600
    assert operations / peak < least < expected < 20 * operations / peak


def test_runs_on_imagenet_take_the_options_of_a_run(capsys):
    assert imagenet.main(["unscaled", "--data", "nothing-here", "--workdir", "x"]) == 2
    assert "nothing-here" in capsys.readouterr().err


def test_a_run_on_imagenet_is_the_named_one(monkeypatch):
    started = []
    monkeypatch.setattr(fit, "fit", lambda config, _: started.append(config) or True)
    assert imagenet.main(["scale_0.1", "--seed", "2"]) == 0
    (config,) = started
    assert config == replace(
        imagenet.RUNS["scale_0.1"],
        seed=2,
        workdir=Path("runs/residual_scaling_imagenet/scale_0.1"),
    )
    assert (config.residual_scale, config.steps, config.probe_every) == (0.1, 50_000, 500)


@pytest.mark.slow
def test_every_run_on_imagenet_has_the_network_it_names():
    different = {(c.network, c.ablation): c for c in imagenet.RUNS.values()}
    for config in different.values():
        network = network_for(config, 1000)
        spec, ablation = network.spec, config.ablation
        assert len(spec.default_scales) == len(get_spec(config.network).default_scales)
        assert spec.pool_norm == ablation.pool_norm
        if ablation.residual_init:
            assert spec.residual_init is INITIALIZERS[ablation.residual_init]
    assert {c.ablation.pool_norm for c in different.values()} == {
        *("none", "before_relu", "after_relu")
    }
