# SPDX-License-Identifier: Apache-2.0
"""Exit statuses and error messages of the commands of experiments."""

import sys
from collections.abc import Callable

from inception_jax.storage.digests import CheckpointError
from inception_jax.text import printable


def run_command(
    name: str, action: Callable[[], None], *, if_interrupted: str, extra: str = "train"
) -> int:
    """Run `action`, print an error in one line on stderr and return the exit status.

    The status is 0 for success, 2 for bad input, 74 for a damaged checkpoint and 130 for
    an interruption. `if_interrupted` tells the user what was kept; `extra` is the extra of
    inception_jax that installs a missing package.
    """
    status = 2
    try:
        action()
    except KeyboardInterrupt:
        print(f"\nInterrupted; {if_interrupted}.", file=sys.stderr)
        return 130
    except CheckpointError as error:
        status, message = 74, str(error)
    except ModuleNotFoundError as error:
        hint = f'{error.name} is missing: pip install "inception_jax[{extra}]"'
        message = hint if error.name else str(error)
    except (ValueError, TypeError, ImportError, OSError) as error:
        message = str(error)
    else:
        return 0
    print(f"{name}: {printable(message)}", file=sys.stderr)
    return status
