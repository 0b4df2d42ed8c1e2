# SPDX-License-Identifier: Apache-2.0
"""The tiny study, and programs that tests share."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.residual_scaling.design.runs import Run
from experiments.residual_scaling.run import programs as programs_module
from experiments.residual_scaling.run import runner
from experiments.residual_scaling.run.study import Study
from tests.experiments.tiny_study import TINY


@cache
def _programs(*of: Any) -> programs_module.Programs:
    *sizes, devices = of
    return programs_module.Programs(*sizes, devices)


def programs(shape: Run, num_train: int, num_classes: int, devices: list) -> Any:
    """Return one `Programs` per shape for all tests, so that each is compiled once."""
    return _programs(shape, num_train, num_classes, tuple(devices))


@pytest.fixture
def shared_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share compiled programs, for tests that do not count compilations."""
    monkeypatch.setattr(runner, "Programs", programs)


@pytest.fixture
def study(tmp_path: Path, data_dir: str) -> Study:
    return Study(TINY, tmp_path / "run", data_dir=data_dir)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> tuple[Study, dict]:
    """The tiny study, trained once, and its records."""
    study = Study(TINY, tmp_path_factory.mktemp("whole") / "run", data_dir=data_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Programs", programs)
        return study, runner.train_study(study)
