# SPDX-License-Identifier: Apache-2.0
"""Estimates of the GPU compiler: the table, and residual sums if it is installed."""

import importlib.util

import jax
import pytest

from experiments.speed import gpu


def test_cells_of_the_table():
    bytes_by_kernel = {
        "__cudnn$convForward": 4 * 10**8,
        "__cudnn$convBackwardInput": 2 * 10**8,
        "__cublas$lt$matmul": 3 * 10**8,
        "copy": 10**7,
        "fusion": 5 * 10**8,
        "convert": 5 * 10**7,
    }
    cells = gpu.row(bytes_by_kernel, 12_345_000_000, images=100)
    assert cells == ["14.6", "6.0", "3.0", "0.1", "5.5", "12.35"]
    assert len(cells) == 1 + len(gpu.COLUMNS) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--networks inception_v5", "did you mean inception_v4"),
        ("--images 0", "--images must be at least 1, got 0."),
        ("", 'GPUs, jax_cuda12_plugin, is missing: pip install "jax[cuda12]"'),
    ],
)
def test_bad_options_are_one_sentence(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gpu.main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_matmuls_compute_the_residual_sums(capsys):
    """With a kernel for each sum, such kernels would take half of all bytes."""
    pytest.importorskip("jax_cuda12_plugin")
    command = "--networks inception_resnet_v2 --tasks inference --images 128"
    cached = jax.config.jax_enable_compilation_cache
    try:
        assert gpu.main([*command.split(), "--implementations", "ours"]) == 0
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    line = capsys.readouterr().out.splitlines()[2]
    total, *_, others, _ = map(float, line.split()[3:])
    assert others < total / 5
