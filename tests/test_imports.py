# SPDX-License-Identifier: Apache-2.0
"""Imports run one way, devices have one home, and importing the package is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules of the package; each imports of ours only what stands in a row above its own.
ROWS = (
    "models.batch_norm models.pooling",
    "models.layers",
    "models.residual",
    "models.schema",
    "models.ablation models.inputs",
    # The boxes of Figs 9 and 15, and those of Inception-v3.
    "models.stem models.inception_a models.reduction_a models.inception_b "
    "models.reduction_b models.inception_c models.head models.inception_v3",
    "models.small",
    "models.specs",
    "models.networks",
    "receptive_field summary signals",
    "train",
    "run_folder step_setup new_file",
    "model_folder",
    # Which names and layouts other libraries' files have; tests/goldens reads them too.
    "weights weights.layouts",
    "weights.convert",
    "pretrained",
    "folding",
    "weights.plain",
    "weights.keras_file weights.stablehlo",
    "weights.read_keras weights.read_tensorflow",
    "weights.files",
    "weights.export weights.import_file",
    "inference",
    "predict features",
    "contact_sheet",
    "first_weights",
    "run_setup",
    "roofline",
    "aot aot_worker",
    "plan",
    "reporting evaluate",
    "batch_statistics feed probe watchdog",
    "hosts",
    "loop",
    "fit",
    "table",
    "cli_images",
    "cli_data cli_checkpoints cli_plan cli_predict cli_features cli_export",
    "cli_weights",
    "cli",
    "__main__",
)
RANK = {f"inception_jax.{m}": row for row, ms in enumerate(ROWS) for m in ms.split()}
RANK["inception_jax"] = RANK["inception_jax.folding"] + 0.5  # its __init__.py
# These import nothing of ours, and everything may import them.
CONFIG, PRINTABLE = "inception_jax.config", "inception_jax.printable"
# These import nothing of ours but the two; only what stands above the networks joins them.
ALONE = {
    *("inception_jax.compile_cache", "inception_jax.goodput", "inception_jax.hardware"),
    *("inception_jax.hlo", "inception_jax.lock", "inception_jax.losses"),
    *("inception_jax.metrics", "inception_jax.optimizer"),
    *("inception_jax.parallel", "inception_jax.stopping"),
}
# Each of these imports the ones before it as well.
SAVING = ("inception_jax.digests", "inception_jax.step_files", "inception_jax.checkpoint")
# Images: geometry, colour, sources and batches, which know one another but no network.
IMAGES = ("inception_jax.crops", "inception_jax.augment", "inception_jax.data")

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("inception_jax", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
PACKAGE = [module for module in SOURCES if module.startswith("inception_jax")]
EXPERIMENTS = [module for module in SOURCES if module.startswith("experiments")]


def imported_by(module: str) -> Iterator[str]:
    """Full names of the modules that `module` imports anywhere in its file."""
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in SOURCES else node.module


def ours(module: str) -> set[str]:
    tops = ("inception_jax", "experiments", "notebooks", "tests")
    return {name for name in imported_by(module) if name.split(".")[0] in tops}


def may_import(module: str) -> set[str]:
    if module in (CONFIG, PRINTABLE, "inception_jax.models"):
        return set()
    if module in ALONE:
        return {CONFIG, PRINTABLE}
    if module in SAVING:
        return set(SAVING[: SAVING.index(module)])
    of_images = {name for name in PACKAGE if name.startswith(IMAGES)}
    if module.startswith(IMAGES):
        return {CONFIG, PRINTABLE} | of_images
    above = {name for name, rank in RANK.items() if rank < RANK[module]}
    joins = RANK[module] > RANK["inception_jax.models.networks"]
    joining = ALONE | {CONFIG, *SAVING} | of_images if joins else set()
    return above | {PRINTABLE} | joining


@pytest.mark.parametrize("module", PACKAGE)
def test_the_package_imports_along_the_arrows(module):
    # A new module needs a place in ROWS or ALONE.
    assert ours(module) <= may_import(module)


@pytest.mark.parametrize("module", EXPERIMENTS)
def test_experiments_import_only_the_package_and_each_other(module):
    assert ours(module) <= set(SOURCES)


def test_experiments_do_not_import_in_circles():
    order = {m: ours(m) & set(EXPERIMENTS) - {m} for m in EXPERIMENTS}
    while ready := [m for m, needs in order.items() if not needs & set(order)]:
        for module in ready:
            del order[module]
    assert not order


def device_words(module: str) -> set[str]:
    """Names that only code knowing devices uses, as written in the code of `module`."""
    names = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            of_jax = isinstance(node.value, ast.Name) and node.value.id == "jax"
            names.add(f"jax.{node.attr}" if of_jax else node.attr)
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
def test_only_parallel_maps_over_devices(module):
    if module == "inception_jax.parallel":
        assert {"jax.devices", "jax.pmap", "jax.shard_map", "Mesh"} <= device_words(module)
    else:
        assert not device_words(module)


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
