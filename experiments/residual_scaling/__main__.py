# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling [--quick]`: train, judge, draw."""

import signal
import sys

import tyro

from experiments.residual_scaling.study import QUICK, Study


def main() -> int:
    """Run the study of the command line; 130 after Ctrl-C, 2 on bad input."""
    default = QUICK if "--quick" in sys.argv[1:] else Study()
    try:
        study = tyro.cli(
            Study, default=default, prog="python -m experiments.residual_scaling"
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # Imported after the command line is read: --help and mistakes answer at once.
        from experiments.residual_scaling.report import write_report
        from experiments.residual_scaling.runner import run

        write_report(study, run(study))
    except KeyboardInterrupt:
        print("\nInterrupted. Finished arms are kept; the same command goes on from there.")
        return 130
    except (ValueError, ImportError, OSError) as error:
        print(f"residual_scaling: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
