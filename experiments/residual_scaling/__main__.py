# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling [--plan PLAN]`: train runs, judge the claims."""

import signal
import sys
import time

import tyro

from experiments.residual_scaling.study import Options
from inception_jax.text import printable

STARTED = time.perf_counter()


def main() -> int:
    """Run the study; return 130 after Ctrl-C and 2 on bad input."""
    try:
        options = tyro.cli(Options, prog="python -m experiments.residual_scaling")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Imported late, so that --help and option errors are fast.
        from experiments.residual_scaling.claims import judge
        from experiments.residual_scaling.report import write_report
        from experiments.residual_scaling.runner import train_study
        from experiments.residual_scaling.verdicts import format_verdicts
        from inception_jax.runtime import compile_cache

        compile_cache.enable()
        study = options.study
        records = train_study(study, STARTED)
        verdicts = judge(records)
        print("Writing the report ...", flush=True)
        pages = write_report(study.folder, records, verdicts, study.left_out(records))
        print(f"\n{format_verdicts(verdicts)}\nWrote")
        for path in (*pages, study.records_file):
            print(f"  {printable(path)}")
    except KeyboardInterrupt:
        print(
            "\nInterrupted. Finished runs are saved; the same command continues the study."
        )
        return 130
    except (ValueError, ImportError, OSError) as error:
        print(f"residual_scaling: {printable(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
