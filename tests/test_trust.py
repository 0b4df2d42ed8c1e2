# SPDX-License-Identifier: Apache-2.0
"""What comes from outside is data: nothing runs it, and nothing goes out to fetch it.

Grain's worker processes get their work from us as pickles. Those never leave the process
and its children, so they are not from outside.
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

# A file of these can hold a program.
READERS = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "yaml"}
# Calls that run what they are given, by full name.
RUNNERS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"),
    *("np.fromregex", "pd.read_pickle", "runpy.run_path"),
}
ARRAYS = {"np.load", "np.save", "numpy.load", "numpy.save"}
# Of these the names of modules are in the code: `require("grain")`.
IMPORTERS = {"require", "importlib.import_module"}
# These import what a list in our code names.
OF_OUR_OWN = (
    "inception_jax.data.optional",
    "experiments.speed.worker",
)


def faults(source: str) -> Iterator[str]:
    """What in a program could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names]
            if names == ["pickle", "UnpicklingError"]:  # to catch, and reads nothing
                continue
            yield from (name for name in names if name.split(".")[0] in READERS)
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        only_arrays = ast.unparse(given.get("weights_only", node)) == "True"
        if name in RUNNERS and not (name == "torch.load" and only_arrays):
            yield name
        if name in ARRAYS and ast.unparse(given.get("allow_pickle", node)) != "False":
            yield f"{name} without allow_pickle=False"
        if ast.unparse(given.get("allow_pickle", node)) == "True":
            yield f"{name} with allow_pickle"
        if "shell" in given:
            yield f"{name} with a shell"
        if name in IMPORTERS and not isinstance(node.args[0], ast.Constant):
            yield f"{name} of a name that is not in the code"


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_runs_what_it_reads(module):
    found = list(faults(SOURCES[module].read_text(encoding="utf-8")))
    if module in OF_OUR_OWN:
        found.remove("importlib.import_module of a name that is not in the code")
    assert found == []


def test_neither_do_the_tests():
    """But for what they made themselves, and the commands and examples of our pages."""
    own = {
        *("pickle", "exec", "compile", "runpy.run_path", "subprocess.run with a shell"),
        "torch.load",  # of a file that runs something, to see that it would
        "importlib.import_module of a name that is not in the code",
    }
    for file in sorted(ROOT.glob("tests/**/*.py")):
        assert set(faults(file.read_text(encoding="utf-8"))) <= own, file


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
def test_faults_are_seen(program):
    assert len(list(faults(program))) >= 1


def test_arrays_of_objects_are_refused(tmp_path):
    """As NumPy stores them, they are pickles; every `np.load` of ours says no to them."""
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
print("nobody was called")
"""


def test_nothing_goes_out(data_dir, tmp_path):
    """Importing, a command and a training; whatever asks for an address or a connection
    is an error there, and is noted."""
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
    assert done.stdout.endswith("nobody was called\n")
