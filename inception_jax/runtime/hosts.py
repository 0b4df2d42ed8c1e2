# SPDX-License-Identifier: Apache-2.0
"""The processes of one run, usually one on each host of a pod.

Every process runs the same program. `inception_jax.training.fit` connects them, and each
then trains on its own part of every batch. A function marked "Collective" must be called by
all processes; if one process does not call it, the others wait.

JAX aborts a process from C++, by SIGABRT and without a Python exception, if the others do
not connect in time, if one sends no heartbeat for `heartbeat_timeout`, or if process 0, the
coordinator, is gone. A process about to be aborted in this way prints a message, which
lists all processes if they had connected, and exits with `HOST_LOST` instead.
"""

import ctypes
import ipaddress
import json
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from inception_jax.config import HostsConfig
from inception_jax.runtime.devices import describe, local_devices
from inception_jax.runtime.parallel import connect_devices
from inception_jax.runtime.stopping import ExitStatus

Result = TypeVar("Result")

SHUTDOWN_TIMEOUT = 10.0  # seconds that a failed process waits for the others when it exits


def connect(config: HostsConfig) -> None:
    """Connect the processes of a run before any device is used. Collective.

    A run of one process needs no connection. Raises ValueError if the coordinator's address
    is invalid or `auto` finds no cluster. Ends the process with `HOST_LOST` if the others
    do not connect within `start_timeout`.
    """
    if config.coordinator is None:
        return
    # JAX's own handler of SIGTERM would hide the signal from this program.
    jax.config.update("jax_enable_preemption_service", False)
    auto = config.coordinator == "auto"
    arguments = {} if auto else _initialize_arguments(config)
    _set_abort_message(
        f"not all processes of the run connected within {config.start_timeout:g} s "
        f"(coordinator {config.coordinator}). Start all of them with the same address, at "
        "which every host can reach process 0; --hosts.start-timeout gives them more "
        "time."
    )
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=math.ceil(config.start_timeout),
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        if not auto:
            raise
        raise ValueError(
            "coordinator auto: JAX found no cluster that it supports, such as Cloud TPU, "
            f"GKE, SLURM or Open MPI ({error}); give HOST:PORT, count and index."
        ) from error


def _initialize_arguments(config: HostsConfig) -> dict[str, Any]:
    """Return the arguments of `jax.distributed.initialize`; raises as `connect` does."""
    host, _, port = str(config.coordinator).rpartition(":")
    expected = "coordinator must be HOST:PORT, with a valid host and a port up to 65535"
    try:
        family, *_, resolved = socket.getaddrinfo(
            host.strip("[]"), None, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise ValueError(f"{expected}, got {config.coordinator} ({error}).") from None
    if not 0 < int(port) < 2**16:
        raise ValueError(f"{expected}, got {config.coordinator}.")
    address = str(resolved[0])
    # Anyone who reaches the port can join, so a run on one machine listens locally only.
    local = ipaddress.ip_address(address).is_loopback
    if config.index == 0:
        try:  # JAX's C++ code would crash if the port were in use
            socket.create_server(
                (address if local else "", int(port)),
                family=family if local else socket.AF_INET,
            ).close()
        except OSError as error:
            raise ValueError(
                f"process 0 cannot listen on port {port} for coordinator "
                f"{config.coordinator} ({error.strerror}); choose another."
            ) from None
    bind_address = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return {
        "coordinator_address": config.coordinator,
        "num_processes": config.count,
        "process_id": config.index,
        "coordinator_bind_address": bind_address if local else None,  # None: all interfaces
        "cluster_detection_method": "deactivate",
    }


def exchange(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in order of index. Collective."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded)
    return [
        json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)
    ]


def broadcast(value: Any) -> Any:
    """Return process 0's JSON value, such as a number or None. Collective."""
    return exchange(value)[0]


def check_consistent(settings: dict[str, str]) -> None:
    """Raise ValueError in all processes if `settings` differ between them. Collective."""
    processes = exchange((socket.gethostname(), settings))
    first_host, first = processes[0]
    differences = []
    for index, (host, own) in enumerate(processes):
        for name in sorted(first.keys() | own.keys()):
            if first.get(name) != own.get(name):
                differences.append(
                    f"{name} is {first.get(name)} in process 0 ({first_host}) and "
                    f"{own.get(name)} in process {index} ({host})"
                )
    if differences:
        raise ValueError(
            f"the processes of a run must have the same settings: {'; '.join(differences)}"
            ". Start all of them with the same command, from the same code."
        )


def run_on_all(action: Callable[[], Result]) -> Result:
    """Run `action` in every process; if it fails in one, it fails in all. Collective.

    The process whose `action` raised re-raises its error. The others raise the first
    failure, as OSError if it was one and as ValueError otherwise.
    """
    if jax.process_count() == 1:
        return action()
    try:
        result = action()
    except Exception as error:
        exchange((socket.gethostname(), str(error), isinstance(error, OSError)))
        raise
    for index, failure in enumerate(exchange(None)):
        if failure is not None:
            host, message, is_os_error = failure
            error_type = OSError if is_os_error else ValueError
            raise error_type(f"process {index} ({host}): {message}")
    return result


def list_processes(code: str) -> list[str]:
    """Connect the devices; return a description of each process. Collective.

    It gives the host, the devices, and the versions of JAX and of this package (`code`).
    If JAX aborts this process later, the descriptions are printed.
    """
    connect_devices()
    own = (
        f"{socket.gethostname()}, pid {os.getpid()}, {describe(local_devices())}, "
        f"jax {jax.__version__}, code {code}"
    )
    lines = [f"process {index}: {line}" for index, line in enumerate(exchange(own))]
    _set_abort_message(
        "JAX has ended this process because another process of the run is gone; the lines "
        'above name it ("leader" is the coordinator, usually process 0). Run the same '
        "command again on all hosts. The processes were:\n" + "\n".join(lines)
    )
    return lines


def exit_process(status: int) -> NoReturn:
    """End this process with `status`.

    When a process exits, JAX waits up to five minutes for the others. After a failure this
    function waits only `SHUTDOWN_TIMEOUT`: the others may hang, and they notice the failure
    only when this process is gone.
    """
    if not jax.distributed.is_initialized():
        # A late signal to stop must not change the status.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif status:
        shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        shutdown.start()
        shutdown.join(SHUTDOWN_TIMEOUT)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


_abort_message = b""


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    os.write(2, _abort_message)
    os._exit(ExitStatus.HOST_LOST)


def _set_abort_message(text: str) -> None:
    """Set the text that is printed if JAX's C++ code aborts this process.

    A handler of Python's `signal` module would never run: abort() does not wait for it.
    """
    global _abort_message
    _abort_message = f"\n{text}\n".encode()
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    set_handler.restype = ctypes.c_void_p
    set_handler(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))
