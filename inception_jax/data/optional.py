# SPDX-License-Identifier: Apache-2.0
"""Import of optional packages: those of the `data` extra and TensorFlow."""

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import and return a module.

    Raises ImportError with the command that installs the `data` extra if it is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ImportError(f'{module} is missing: pip install "inception_jax[data]"') from e
