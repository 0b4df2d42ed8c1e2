# SPDX-License-Identifier: Apache-2.0
"""Estimates of the TPU compiler for ours, plain layers and Keras."""

import importlib.util
import json

import pytest

from experiments.speed import tpu
from experiments.speed.tpu_worker import Request
from inception_jax.planning import aot

MOVEMENT = {"hbm_bytes": 8 * 10**9, "cycles": 3 * 10**7, "bytes": {}}
FIGURES = {"flops": 4e12, "memory": {"temporary": 5 * 10**9}, "movement": MOVEMENT}


def test_a_row_of_the_table():
    request = Request("ours", "inception_v4", 100, "v5e:2x2")
    assert tpu.row(request, {"compiled": FIGURES}) == (
        *("inception_v4", "ours", "80", "40.0", "5.00"),
        *("4,925", "5,000"),  # 100 / (4 / 197) by FLOPs; 100 x 1.5 / 0.03
    )
    refused = {"refused": {"needed": 20 * 10**9, "available": 16 * 10**9}}
    assert tpu.row(request, refused)[2] == "too large: needs 20.0 GB"


def test_saved_results_are_not_compiled_again(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setattr(tpu, "version", lambda name: "1.0")
    monkeypatch.setattr(aot, "check_compiler", lambda: None)
    monkeypatch.setattr(aot, "source_digest", lambda: source[0])

    def ask(worker, request):
        asked.append(Request(**request))
        return {"compiled": FIGURES}

    monkeypatch.setattr(aot, "run_worker", ask)
    source = ["unchanged"]
    out = tmp_path / "tpu.jsonl"
    assert tpu.main(["--out", str(out)]) == 0
    assert [(x.network, x.implementation) for x in asked] == [
        # Keras has no Inception-v4.
        *(("inception_v4", name) for name in ("ours", "remat", "plain")),
        *(("inception_resnet_v2", name) for name in ("ours", "remat", "plain", "keras")),
    ]
    tpu.main(["--out", str(out)])
    assert len(asked) == 7
    tpu.main(["--out", str(out), "--images", "64", "--implementations", "ours"])
    assert len(asked) == 9
    assert len([json.loads(x) for x in out.read_text().splitlines()]) == 9
    assert capsys.readouterr().out.count("inception_resnet_v2") == 4 + 4 + 1
    # Results of changed source files are not reused.
    source[0] = "changed"
    tpu.main(["--out", str(out)])
    assert len(asked) == 16


def test_a_missing_compiler_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tpu.main(["--out", str(tmp_path / "x.jsonl")]) == 2
    assert capsys.readouterr().err == (
        "experiments.speed.tpu: libtpu, the compiler for TPUs, is missing: pip install "
        '"inception_jax[plan]"\n'
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--networks inception_v5", "did you mean inception_v4"),
        ("--sides timm", "no implementation 'timm'"),
        ("--images 0", "--images must be at least 1, got 0"),
        ("--topology v9:2x2", "as the chip, got 'v9"),
    ],
)
def test_bad_options_are_one_sentence(arguments, message, capsys):
    assert tpu.main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
