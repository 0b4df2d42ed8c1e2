# SPDX-License-Identifier: Apache-2.0
"""Data sets that are prepared once for all tests."""

import pytest

from inception_jax.data.digits import prepare_digits
from tests.data.tiny_imagenet import prepare_tiny_imagenet


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for TFDS with `digits` and a tiny `imagenet2012` in it."""
    folder = str(tmp_path_factory.mktemp("tensorflow_datasets"))
    prepare_digits(folder)
    prepare_tiny_imagenet(folder)
    return folder
