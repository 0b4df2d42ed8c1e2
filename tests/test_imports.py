# SPDX-License-Identifier: Apache-2.0
"""Which modules may import which, where devices are used, and what an import loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Folder -> folders it may import besides itself and `ANYONE`.
MAY_IMPORT = {
    "kernels": "",
    "models": "kernels",
    "data": "",
    "runtime": "",
    "storage": "",
    "weights": "models data storage",
    "training": "models data runtime storage weights",
    "inference": "models data runtime storage weights training",
    "planning": "models data runtime storage training",
    "cli": "models data runtime storage weights training inference planning",
}
ANYONE = {"config", "text"}
TOP_LEVEL = {"__main__": {"cli"}, "__init__": {"models", "runtime", "weights"}}

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("inception_jax", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
PACKAGE = [module for module in SOURCES if module.startswith("inception_jax")]
EXPERIMENTS = [module for module in SOURCES if module.startswith("experiments")]


def imported_by(module: str) -> Iterator[str]:
    """Yield the full names of all modules that `module` imports, also inside functions."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module


def local_imports(module: str) -> set[str]:
    """Return the modules of this repository that `module` imports."""
    tops = ("inception_jax", "experiments", "notebooks", "tests")
    return {name for name in imported_by(module) if name.split(".")[0] in tops}


def folder(module: str) -> str:
    """Return the package folder of `module`, or its own name at the top level."""
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("module", PACKAGE)
def test_the_package_imports_one_way(module):
    here = folder(module)
    if here in ANYONE:
        allowed = {here}
    elif here in TOP_LEVEL:
        allowed = TOP_LEVEL[here]
    else:
        allowed = {here, *ANYONE, *MAY_IMPORT[here].split()}
    assert {folder(name) for name in local_imports(module)} <= allowed


def test_the_top_level_is_folders_and_three_modules():
    top = {path.stem for path in (ROOT / "inception_jax").glob("*.py")}
    assert top == {"text", *TOP_LEVEL}


def test_modules_are_short():
    lines = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
    assert {name: count for name, count in lines.items() if count > 300} == {}


def test_modules_do_not_import_in_circles():
    order = {name: local_imports(name) & set(SOURCES) - {name} for name in SOURCES}
    while ready := [name for name, needs in order.items() if not needs & set(order)]:
        for name in ready:
            del order[name]
    assert not order


@pytest.mark.parametrize("module", EXPERIMENTS)
def test_experiments_import_only_the_package_and_each_other(module):
    assert local_imports(module) <= set(SOURCES)


def device_words(module: str) -> set[str]:
    """Return the names in `module` that only code about devices uses."""
    names = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            is_jax = isinstance(node.value, ast.Name) and node.value.id == "jax"
            names.add(f"jax.{node.attr}" if is_jax else node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.name for alias in node.names)
    counts = ("devices", "local_devices", "device_count", "local_device_count")
    maps = ("pmap", "shard_map")
    return names & {
        *(f"jax.{name}" for name in counts + maps),
        *maps,
        *("Mesh", "NamedSharding", "PartitionSpec"),
    }


@pytest.mark.parametrize("module", SOURCES)
def test_only_the_runtime_maps_over_devices(module):
    if not module.startswith("inception_jax.runtime."):
        assert not device_words(module)


def test_device_words_are_found():
    words = device_words("inception_jax.runtime.parallel")
    assert {"jax.pmap", "jax.shard_map", "Mesh", "NamedSharding"} <= words
    assert "jax.devices" in device_words("inception_jax.runtime.devices")


def test_importing_the_package_is_light():
    heavy = {
        *("tensorflow", "tensorflow_datasets", "grain", "array_record"),
        *("matplotlib", "tyro", "sklearn", "experiments"),
    }
    program = "import sys, inception_jax; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert "inception_jax" in loaded
    assert not loaded & heavy
