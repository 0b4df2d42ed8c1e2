# SPDX-License-Identifier: Apache-2.0
"""JAX's compilation cache on disk, in a folder that only its owner can change.

With it, a second start loads what the first one compiled. JAX's documentation warns that
anyone who can write to the folder "can trigger your JAX process to run arbitrary code".
"""

import grp
import os
import pwd
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import jax

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def enable() -> None:
    """Store compiled programs in a folder, and load them from it.

    The folder is JAX_COMPILATION_CACHE_DIR or, if that is not set, inception_jax/xla in the
    user's cache folder (XDG_CACHE_HOME or ~/.cache). Missing folders are created with mode
    0700. If that fails, a message is printed on stderr and nothing is stored.
    JAX_ENABLE_COMPILATION_CACHE=false disables the cache.

    Raises ValueError, naming the folder, if other users could change the programs.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return
    chosen = config.jax_compilation_cache_dir
    if chosen and "://" in chosen:
        return  # a bucket: its path does not show who may write to it
    try:
        folder = Path(chosen).expanduser() if chosen else user_cache_folder("xla")
        folder = folder.resolve()  # a symbolic link could be changed later
        create_private(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        print(f"Compiled programs are not cached on disk: {error}", file=sys.stderr)
        config.update("jax_compilation_cache_dir", None)
        return
    _check_owner(folder)
    config.update("jax_compilation_cache_dir", str(folder))


def user_cache_folder(name: str) -> Path:
    """Return inception_jax/`name` in $XDG_CACHE_HOME, which is ~/.cache by default."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification requires that relative paths are ignored.
    base = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    return base / "inception_jax" / name


def create_private(folder: Path) -> None:
    """Create missing folders with mode 0700; raises OSError if `folder` is not writable."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a directory.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{str(folder)!r} cannot be written.")


def _check_owner(folder: Path) -> None:
    """Raise ValueError if another user could write to `folder` or replace it."""
    # The owner of / has full access anyway; in a user namespace it is not user 0.
    trusted = {os.geteuid(), 0, os.stat("/").st_uid}
    for path in (folder, *folder.parents):
        status = path.stat()
        writable = status.st_mode & WRITABLE_BY_OTHERS
        if writable & stat.S_IWGRP and _is_private_group(status.st_gid):
            writable &= ~stat.S_IWGRP
        if path != folder and status.st_mode & stat.S_ISVTX:
            writable = 0  # sticky, as /tmp: users can rename only what they own
        if status.st_uid not in trusted:
            fault, remedy = f"belongs to user {status.st_uid}", ""
        elif writable:
            command = shlex.join(["chmod", "go-w", str(path)])
            fault, remedy = "can be written by other users", f"run {command}, or "
        else:
            continue
        raise ValueError(
            f"{str(path)!r} {fault}, who could add programs to the compilation cache "
            f"{str(folder)!r}, and you would run them; {remedy}set "
            "JAX_COMPILATION_CACHE_DIR to a folder of your own or "
            "JAX_ENABLE_COMPILATION_CACHE=false."
        )


def _is_private_group(gid: int) -> bool:
    """Return whether the user is the only member, by the rule of pam_umask's `usergroups`.

    Systems with such groups make all new folders group-writable.
    """
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    same_name = (gid, group.gr_name) == (user.pw_gid, user.pw_name)
    return same_name and not set(group.gr_mem) - {user.pw_name}
