# SPDX-License-Identifier: Apache-2.0
"""The compilation cache is in a folder that only the user can change, or is disabled."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import evaluate, recalibrate
from experiments.residual_scaling import __main__ as study
from inception_jax.runtime import compile_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A new home folder, and JAX without a cache."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def enabled() -> str | None:
    compile_cache.enable()
    return jax.config.jax_compilation_cache_dir


def modes(folder: Path, home: Path) -> list[int]:
    places = (folder, *folder.parents)
    return [p.stat().st_mode & 0o777 for p in places[: places.index(home)]]


def test_the_default_folder_is_private(home, monkeypatch):
    before = os.umask(0)  # new files are writable by everyone
    try:
        assert enabled() == str(home / ".cache" / "inception_jax" / "xla")
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "a" / "b"))
        assert enabled() == str(home / "a" / "b" / "inception_jax" / "xla")
    finally:
        os.umask(before)
    for base in (home / ".cache", home / "a" / "b"):
        assert set(modes(base / "inception_jax" / "xla", home)) == {0o700}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert enabled() == str(home / ".cache" / "inception_jax" / "xla")


def test_a_folder_chosen_by_the_user(home):
    """Also through a symbolic link."""
    (home / "real").mkdir(mode=0o755)
    (home / "link").symlink_to("real")
    for chosen in ("real", "link"):
        jax.config.update("jax_compilation_cache_dir", str(home / chosen))
        assert enabled() == str(home / "real")
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/xla")
    assert enabled() == "gs://bucket/xla"
    assert not (home / ".cache").exists()


def test_the_cache_can_be_disabled(home, capsys):
    jax.config.update("jax_enable_compilation_cache", False)
    assert enabled() is None
    assert not (home / ".cache").exists()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o772, 0o1777])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_folders_that_others_can_change_are_refused(home, monkeypatch, mode, depth):
    """The folder or a parent of it, except parents with a sticky bit, as /tmp has."""
    monkeypatch.setattr(compile_cache, "_is_private_group", lambda gid: False)
    folder = home / ".cache" / "inception_jax" / "xla"
    folder.mkdir(parents=True, mode=0o700)
    (folder, *folder.parents)[depth].chmod(mode)
    if mode == 0o1777 and depth:
        assert enabled() == str(folder)
        return
    place = str((folder, *folder.parents)[depth])
    with pytest.raises(ValueError, match="can be written by other users") as error:
        compile_cache.enable()
    assert f"run {shlex.join(['chmod', 'go-w', place])}, or set JAX_C" in str(error.value)
    assert jax.config.jax_compilation_cache_dir is None


def test_another_users_folder_is_refused(home, monkeypatch):
    folder = home / "theirs"
    folder.mkdir(mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setattr(os, "access", lambda *_: True)
    message = (
        rf"'{folder}' belongs to user \d+, who could .*; set JAX_COMPILATION_CACHE_DIR"
    )
    with pytest.raises(ValueError, match=message):
        compile_cache.enable()


@pytest.mark.parametrize("members", [[], ["me"], ["me", "you"]])
@pytest.mark.parametrize("name", ["me", "staff"])
def test_a_private_group_may_write(home, monkeypatch, members, name):
    """Some systems make new folders writable by a group with the user's name."""
    user = type("User", (), {"pw_name": "me", "pw_gid": home.stat().st_gid})
    group = type("Group", (), {"gr_name": name, "gr_mem": members})
    monkeypatch.setattr(compile_cache.pwd, "getpwuid", lambda uid: user)
    monkeypatch.setattr(compile_cache.grp, "getgrgid", lambda gid: group)
    (home / ".cache").mkdir()
    (home / ".cache").chmod(0o775)
    if name == "me" and "you" not in members:
        assert enabled()
    else:
        with pytest.raises(ValueError, match="can be written by other users"):
            compile_cache.enable()


def no_home(monkeypatch: pytest.MonkeyPatch, home: Path) -> str:
    monkeypatch.delenv("HOME")

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(compile_cache.pwd, "getpwuid", unknown)
    return "home"


def a_file(monkeypatch: pytest.MonkeyPatch, home: Path) -> str:
    (home / ".cache").touch()
    return ".cache"


def a_chosen_file(monkeypatch: pytest.MonkeyPatch, home: Path) -> str:
    (home / "file").touch()
    jax.config.update("jax_compilation_cache_dir", str(home / "file"))
    return "file' is not a directory."


def read_only(monkeypatch: pytest.MonkeyPatch, home: Path) -> str:
    (home / ".cache" / "inception_jax" / "xla").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    return "xla' cannot be written."


@pytest.mark.parametrize("fault", [no_home, a_file, a_chosen_file, read_only])
def test_without_a_usable_folder_nothing_is_kept(home, monkeypatch, capsys, fault):
    message = fault(monkeypatch, home)
    assert enabled() is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Compiled programs are not cached on disk: ")
    assert message in line


def test_a_cached_program_gives_bitwise_equal_results(home):
    """An incomplete file, left by a killed process, is compiled again."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folder = Path(enabled())

    def result() -> np.ndarray:
        jax.clear_caches()
        x = jnp.linspace(-1, 1, 64 * 64).reshape(64, 64)
        program = jax.jit(lambda x: jnp.tanh(x @ x.T / 7).sum(0) + jnp.exp(x).mean(1))
        return np.asarray(program(x))

    fresh, files = result(), len(list(folder.glob("*-cache")))
    assert files
    np.testing.assert_array_equal(result(), fresh)
    assert len(list(folder.glob("*-cache"))) == files
    for file in folder.glob("*-cache"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache"):
        np.testing.assert_array_equal(result(), fresh)


@pytest.mark.parametrize("command", [evaluate.main, recalibrate.main, study.main])
def test_the_commands_refuse_a_shared_folder(home, monkeypatch, capsys, command):
    """They exit with status 2 and one sentence before they do anything else."""
    (home / "shared").mkdir()
    (home / "shared").chmod(0o777)
    jax.config.update("jax_compilation_cache_dir", str(home / "shared"))
    folders = {
        evaluate.main: ["nowhere"],
        recalibrate.main: ["nowhere", "--out", str(home / "out")],
        study.main: ["--workdir", str(home / "out")],
    }
    monkeypatch.setattr(sys, "argv", ["command", *folders[command]])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the study sets a handler
    assert command() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "shared' can be written by other users" in line
    assert not (home / "out").exists()
