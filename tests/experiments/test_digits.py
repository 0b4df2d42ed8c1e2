# SPDX-License-Identifier: Apache-2.0
"""A full network learns: the digits recipe from the command line."""

import re

import pytest
from PIL import Image

from experiments import evaluate, run
from inception_jax.data.open_source import open_source
from inception_jax.storage.files import read_json_lines
from inception_jax.training.metrics import means


@pytest.mark.slow
def test_a_full_network_classifies_held_out_scans(tmp_path, data_dir, capsys):
    """At least 97 % of randomly held-out scans, and moving averages as good as batch
    statistics within 2 points."""
    for split in ("train", "eval"):
        source = open_source("digits", split, data_dir)
        for i, example in enumerate(source.examples):
            folder = tmp_path / "scans" / source.class_names[example["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = example["image"][..., 0]
            Image.fromarray(pixels).save(folder / f"{split}{i}.png")
    folder = str(tmp_path / "run")
    data = ("--data", f"folder:{tmp_path / 'scans'}", "--workdir", folder)
    assert run.main(["digits", *data]) == 0
    assert evaluate.main([folder]) == 0
    (record,) = read_json_lines(tmp_path / "run" / "evaluations.jsonl")
    assert record["ema"]["count"] == 174
    assert means(record["ema"])["top1"] >= 0.97
    output = capsys.readouterr().out
    for weights in ("raw", "ema"):
        line = rf"^{weights}: .* top-1 ([\d.]+)%; .* top-1 ([\d.]+)%"
        modes = re.search(line, output, re.MULTILINE)
        averages, batch = map(float, modes.groups())
        assert abs(averages - batch) <= 2.0
