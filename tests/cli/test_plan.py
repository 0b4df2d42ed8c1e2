# SPDX-License-Identifier: Apache-2.0
"""`inception-jax plan`: the report, and one line for invalid input."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from inception_jax.cli import main as cli
from inception_jax.cli import plan as cli_plan
from inception_jax.cli.plan import describe
from inception_jax.planning.aot import TooLarge
from inception_jax.planning.plan import LargestBatch, Plan
from inception_jax.planning.roofline import GIB, get_slice
from tests.planning.examples import CONFIG, MOVEMENT, compiled_step, needs_libtpu


def test_the_report_has_all_figures(monkeypatch):
    monkeypatch.setattr(cli_plan, "version", lambda name: "1.0")
    bigger = replace(compiled_step(12 * GIB), flops=2.9e12 / 40 * 128 * 1.25)
    largest = LargestBatch(128, "v5e:2x2", bigger, TooLarge(20 * GIB, 15 * GIB, 1.0))
    text = describe(Plan(CONFIG, get_slice("v5e:4x4"), compiled_step(), largest))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "total 4.00 GiB of 16 GiB",
        "Largest batch per chip that fits: 128 images, which need 12.00 GiB; 25% of the "
        "operations are recomputed to save memory. A batch of 256 would need at least "
        "20.00 GiB of 15.00 GiB.",
        "Compiled for v5e:2x2; 2048 images per step on all chips of v5e:4x4.",
        "operations per image 72.5 G, 0.986 of 6 x 12.25 GMACs",
        "memory traffic per image 400 MB to and from HBM, 500 MB with on-chip memory",
        "collectives per step 3 all-reduce of 170.0 MB; none of them overlapped with "
        "computation",
        "roofline, the longer of the two 19.5 ms at most 2,048 images/s per chip, 32,760 "
        "on all",
        "time by stage, estimated operations HBM compiler's estimate",
        "Mixed_5b .. Mixed_5e 14.6 ms 13.4 ms 40.0 ms",
        "other: loss, optimizer, averages 0.0 ms 1.2 ms 6.7 ms",
        "16 3.2 ms 86.0% 100.0%",
    ):
        assert line in lines
    none = LargestBatch(0, "v5e:2x2", None, TooLarge(20 * GIB, 15 * GIB, 1.0))
    text = describe(Plan(CONFIG, get_slice("v6e:4x4"), compiled_step(), none))
    assert "that fits: none. A batch of 1 would need at least" in text
    assert "by stage" in text
    assert "compiler's estimate" not in text  # v6e: number of cores and clock unknown
    no_cycles = replace(compiled_step(), movement=replace(MOVEMENT, cycles=0))
    text = describe(Plan(CONFIG, get_slice("v5e:4x4"), no_cycles, None))
    assert "compiler's estimate" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inception_v5", "did you mean inception_v4"),
        ("inception_v4 --topology v5e:3x3", "must be one of v5e:2x2, v5e:2x4, v5e:4x4"),
        ("inception_v4 --topology v9", "one of v4, v5e, v5p, v6e as the chip, got 'v9'"),
        ("inception_v4 --batch 641", "multiple of 16 (16 chips x accumulate 1), got 641"),
        ("inception_v4 --topology v5e:16x16", "got 640; choose 512 or 768"),
        ("inception_v4 --batch 7", "got 7; choose 16."),
        ("inception_v4 --accumulate 3", "multiple of 48"),
        ("inception_v4 --bn-sync 3", "divide the 16 chips of v5e:4x4, got 3"),
        ("inception_v4", 'libtpu, the compiler for TPUs, is missing: pip install "inc'),
    ],
)
def test_invalid_input_is_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit:
        cli.main(["plan", *arguments.split()])
    assert exit.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


@needs_libtpu
@pytest.mark.slow
def test_plan_of_a_small_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = "plan inception_resnet_small --topology v5e:2x2 --batch 64 --no-largest"
    cli.main(command.split())
    text, progress = capsys.readouterr()
    assert "Compiling inception_resnet_small for v5e:2x2" in progress
    for expected in (
        "4 x TPU v5 lite",
        "16 per chip",
        "of 16 GiB",
        "1 all-reduce of 0.9 MB",
    ):
        assert expected in text
    cli.main([*command.split(), "--json"])
    text, progress = capsys.readouterr()
    assert progress == ""
    figures = json.loads(text)
    assert figures["program"]["chips"] == 4
    program = figures["program"]
    assert 0 < program["movement"]["hbm_bytes"] < program["movement"]["total_bytes"]
    assert figures["scaling"][0]["chips"] == 4
    assert "libtpu.so" not in Path("/proc/self/maps").read_text()
