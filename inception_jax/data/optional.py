# SPDX-License-Identifier: Apache-2.0
"""Import of packages that an extra of inception_jax installs."""

import importlib
from types import ModuleType


def require(module: str, extra: str = "data", need: str = "") -> ModuleType:
    """Import and return a module.

    Raises ImportError with the command that installs the extra if the module is missing.
    The message begins with `need`, such as "model.h5 is a Keras file, and ".
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ImportError(
            f'{need}{module} is missing: pip install "inception_jax[{extra}]"'
        ) from e
