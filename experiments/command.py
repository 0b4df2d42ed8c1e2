# SPDX-License-Identifier: Apache-2.0
"""How a command ends: its exit status, and what went wrong in a sentence on stderr."""

import sys
from collections.abc import Callable

from inception_jax.storage.digests import CheckpointError
from inception_jax.text import printable


def exit_status(
    module: str, do: Callable[[], None], *, kept: str, extra: str = "train"
) -> int:
    """Do what `python -m module` is for. 0 done, 2 bad input, 74 damaged checkpoint or
    disk, 130 interrupted: `kept` says what is left then. `extra` has what is imported."""
    status = 2
    try:
        do()
    except KeyboardInterrupt:
        print(f"\nInterrupted; {kept}.", file=sys.stderr)
        return 130
    except CheckpointError as error:
        status, said = 74, str(error)
    except (ValueError, TypeError, ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name
        hint = f'{missing} is missing: pip install "inception_jax[{extra}]"'
        said = hint if missing else str(error)
    else:
        return 0
    print(f"{module}: {printable(said)}", file=sys.stderr)
    return status
