# SPDX-License-Identifier: Apache-2.0
"""Files are data: nothing that is read is executed, and nothing is downloaded.

Grain sends pickles to its worker processes. Those stay between the process and its
children.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from tests.data.offline import WITHOUT_TENSORFLOW_AND_NETWORK
from tests.drills import COMMAND_WITH_TINY, OPTIONS
from tests.test_imports import ROOT, SOURCES

# Modules that read files which can contain code.
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml"}
# Functions that execute their argument or a file.
UNSAFE_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"),
    *("np.fromregex", "pd.read_pickle", "runpy.run_path"),
}
ARRAY_FUNCTIONS = {"np.load", "np.save", "numpy.load", "numpy.save"}
# Functions that import a module, whose name must be a constant: `require("grain")`.
IMPORT_FUNCTIONS = {"require", "importlib.import_module"}
# These modules import names from a list in this repository.
DYNAMIC_IMPORTS = (
    "inception_jax.data.optional",
    "experiments.speed.worker",
)


def unsafe_code(source: str) -> Iterator[str]:
    """Yield the parts of a program that could execute what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            if names == ["pickle", "UnpicklingError"]:  # to catch the exception
                continue
            yield from (name for name in names if name.split(".")[0] in UNSAFE_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        weights_only = keywords.get("weights_only") == "True"
        if name in UNSAFE_CALLS and not (name == "torch.load" and weights_only):
            yield name
        if name in ARRAY_FUNCTIONS and keywords.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        if keywords.get("allow_pickle") == "True":
            yield f"{name} with allow_pickle"
        if "shell" in keywords:
            yield f"{name} with a shell"
        if name in IMPORT_FUNCTIONS and not isinstance(node.args[0], ast.Constant):
            yield f"{name} of a name that is not in the code"


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_executes_what_it_reads(module):
    unsafe = list(unsafe_code(SOURCES[module].read_text(encoding="utf-8")))
    if module in DYNAMIC_IMPORTS:
        unsafe.remove("importlib.import_module of a name that is not in the code")
    assert unsafe == []


def test_tests_execute_only_what_they_made():
    """They also execute the commands and examples of this repository's pages."""
    allowed = {
        *("pickle", "exec", "compile", "runpy.run_path", "subprocess.run with a shell"),
        "torch.load",  # of a file with code, to show that it is executed
        "importlib.import_module of a name that is not in the code",
    }
    for file in sorted(ROOT.glob("tests/**/*.py")):
        assert set(unsafe_code(file.read_text(encoding="utf-8"))) <= allowed, file


@pytest.mark.parametrize(
    "program",
    [
        *("import pickle", "from joblib import load", "import yaml.loader", "eval('1')"),
        *("np.load(f)", "np.load(f, allow_pickle=True)", "np.savez(f, allow_pickle=True)"),
        *(
            "subprocess.run(c, shell=True)",
            "torch.load(f)",
            "torch.load(f, weights_only=x)",
            "from pickle import UnpicklingError, loads",
            "require(name)",
            "os.system(c)",
        ),
    ],
)
def test_unsafe_code_is_detected(program):
    assert len(list(unsafe_code(program))) >= 1


def test_object_arrays_are_rejected(tmp_path):
    """NumPy stores them as pickles, which `np.load` rejects with `allow_pickle=False`."""
    np.savez(tmp_path / "bad.npz", weights=np.array([{}, print], object))
    with (
        np.load(tmp_path / "bad.npz", allow_pickle=False) as arrays,
        pytest.raises(ValueError, match="allow_pickle=False"),
    ):
        arrays["weights"]


PROGRAM = f"""{WITHOUT_TENSORFLOW_AND_NETWORK}
import inception_jax, experiments.evaluate
from inception_jax.cli.main import main
main(["networks", "inception_resnet_small"])
{COMMAND_WITH_TINY[2].replace("raise SystemExit(main())", "assert main() == 0")}
assert not attempts, attempts
print("no connection was attempted")
"""


def test_nothing_connects_to_the_network(data_dir, tmp_path):
    """Import the package, run a command and train a step, with every attempt to resolve a
    name or to connect recorded as an error."""
    size = ("--network", "tiny", "--steps", "1", "--data-dir", data_dir)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *OPTIONS, *size, "--workdir", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {"JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("no connection was attempted\n")
