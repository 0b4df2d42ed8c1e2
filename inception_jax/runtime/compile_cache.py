# SPDX-License-Identifier: Apache-2.0
"""JAX's compilation cache on disk, in a folder that only its owner can change.

A second start loads what the first one compiled. JAX's documentation on it: those who can
write to the folder "can trigger your JAX process to run arbitrary code".
"""

import grp
import os
import pwd
import shlex
import stat
import sys
from pathlib import Path

import jax

SHARED = stat.S_IWGRP | stat.S_IWOTH


def enable() -> None:
    """Keep compiled programs in JAX_COMPILATION_CACHE_DIR; where that is not set, in
    inception_jax/xla of the user's cache folder (XDG_CACHE_HOME or ~/.cache).

    What is missing of the path is made with mode 0700. Where that fails, a line on stderr
    says so and nothing is kept. JAX_ENABLE_COMPILATION_CACHE=false: not at all. Of several
    processes of a run JAX lets the first one write; a file that is not whole is compiled
    anew, with a warning.

    Raises ValueError, naming the place, where other users could change what is kept.
    """
    if not jax.config.jax_enable_compilation_cache:
        return
    chosen = jax.config.jax_compilation_cache_dir
    if chosen and "://" in chosen:
        return  # a bucket: who may write there is not in its path
    try:
        folder = Path(chosen).expanduser() if chosen else _default()
        folder = folder.resolve()  # a link could point elsewhere later
        _make(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        print(f"Compiled programs are not kept for later starts: {error}", file=sys.stderr)
        jax.config.update("jax_compilation_cache_dir", None)
        return
    _refuse_if_shared(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _default() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    return base / "inception_jax" / "xla"


def _make(folder: Path) -> None:
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{str(folder)!r} cannot be written.")


def _refuse_if_shared(folder: Path) -> None:
    """A folder is safe with all above it: who can rename one can put another in place."""
    # The owner of / can do anything anyway; in a user namespace that is not 0.
    trusted = {os.geteuid(), 0, os.stat("/").st_uid}
    for place in (folder, *folder.parents):
        status = place.stat()
        shared = status.st_mode & SHARED
        if shared & stat.S_IWGRP and _is_own_group(status.st_gid):
            shared &= ~stat.S_IWGRP
        if place != folder and status.st_mode & stat.S_ISVTX:
            shared = 0  # as in /tmp: nobody can rename what is another's
        if status.st_uid not in trusted:
            fault, cure = f"belongs to user {status.st_uid}", ""
        elif shared:
            command = shlex.join(["chmod", "go-w", str(place)])
            fault, cure = "can be written by other users", f"run {command}, or "
        else:
            continue
        raise ValueError(
            f"{str(place)!r} {fault}, who could put programs into the compilation cache "
            f"{str(folder)!r} that you would run; {cure}set JAX_COMPILATION_CACHE_DIR to a "
            "folder of your own or JAX_ENABLE_COMPILATION_CACHE=false."
        )


def _is_own_group(gid: int) -> bool:
    """Whether a group is its user's alone, by the rule of pam_umask's `usergroups`:
    systems with such groups let them write to all new folders."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    named_alike = (gid, group.gr_name) == (user.pw_gid, user.pw_name)
    return named_alike and not set(group.gr_mem) - {user.pw_name}
