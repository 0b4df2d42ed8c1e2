# SPDX-License-Identifier: Apache-2.0
"""The packages of the `data` extra, imported where they are used."""

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """The module; raises ImportError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise ImportError(f'{module} is missing: pip install "inception_jax[data]"') from e
