# SPDX-License-Identifier: Apache-2.0
"""A full network learns: the digits recipe as it stands, from the command line."""

import re

import pytest

from experiments import evaluate, run
from inception_jax.metrics import means, read_json_lines


@pytest.mark.slow
def test_a_full_network_reads_handwriting_it_has_not_seen(tmp_path, data_dir, capsys):
    """At least 97 % of the held-out scans, and as good with moving averages of batch
    statistics as with a batch's own, within 2 points."""
    folder = str(tmp_path / "run")
    assert run.main(["digits", "--data-dir", data_dir, "--workdir", folder]) == 0
    assert evaluate.main([folder]) == 0
    (record,) = read_json_lines(tmp_path / "run" / "evaluations.jsonl")
    assert record["ema"]["count"] == 297
    assert means(record["ema"])["top1"] >= 0.97
    said = capsys.readouterr().out
    for weights in ("raw", "ema"):
        line = rf"^{weights}: .* top-1 ([\d.]+)%; .* top-1 ([\d.]+)%"
        modes = re.search(line, said, re.MULTILINE)
        averages, batch = map(float, modes.groups())
        assert abs(averages - batch) <= 2.0
