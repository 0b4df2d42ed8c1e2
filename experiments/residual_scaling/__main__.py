# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling [--plan PLAN]`: train runs, test the claims."""

import signal
import sys
import textwrap
import time

import tyro

from experiments.residual_scaling.run.study import Options
from inception_jax.runtime.stopping import run_command
from inception_jax.text import printable

STARTED = time.perf_counter()
PROG = "python -m experiments.residual_scaling"


def main() -> int:
    """Run the study; return 130 after Ctrl-C and 2 on bad input."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    interrupted = "finished runs are saved; the same command continues the study"
    return run_command(PROG, _run, if_interrupted=interrupted, extra="study")


def _run() -> None:
    options = tyro.cli(Options, prog=PROG)
    # Imported late, so that --help and option errors are fast.
    from experiments.residual_scaling.judge.tables import probe_table, run_table
    from experiments.residual_scaling.judge.tests import judge_claims
    from experiments.residual_scaling.run.runner import train_study, use_all_cores
    from experiments.residual_scaling.show.report import write_report
    from experiments.residual_scaling.show.summary import sentences
    from inception_jax.runtime import compile_cache

    use_all_cores()
    compile_cache.enable()
    study = options.study
    records = train_study(study, STARTED)
    if not records:
        raise ValueError(
            f"no run of plan {options.plan} finished within {study.seconds / 60:.3g} "
            "minutes; allow more with --minutes."
        )
    print("Writing the report ...", flush=True)
    runs, probes = run_table(records), probe_table(records)
    paths = write_report(study.folder, study.plan, runs, probes)
    for sentence in sentences(runs, judge_claims(runs, study.plan.claims)):
        print(textwrap.fill(sentence, 96))
    print("Wrote")
    for path in paths:
        print(f"  {printable(path)}")


if __name__ == "__main__":
    sys.exit(main())
