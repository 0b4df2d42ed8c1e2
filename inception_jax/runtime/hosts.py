# SPDX-License-Identifier: Apache-2.0
"""Several processes that train one network: finding one another, agreeing, and ending.

JAX ends a process from C++, by SIGABRT and without a Python error, where the others do not
turn up at the start, where one sends no sign of life for `heartbeat_timeout`, and where
the first one, which is the coordinator, is gone. `start` sees to it that the process then
says which host is which, and ends with `HOST_LOST`.
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
from inception_jax.runtime.hardware import describe
from inception_jax.runtime.parallel import arm_devices, meet, this_host
from inception_jax.runtime.stopping import HOST_LOST

Facts = dict[str, str]
Result = TypeVar("Result")

# Seconds that the end of a process waits for those of the others.
LEAVE_WITHIN = 10.0


def start(config: HostsConfig) -> None:
    """Connect the processes of a run, before any device is touched; one needs nothing.

    Raises ValueError where the address is not good or `auto` finds no cluster. Ends the
    process with `HOST_LOST` where not all are there within `start_timeout`.
    """
    if config.coordinator is None:
        return
    # JAX's own handler of SIGTERM would keep the signal from this program.
    jax.config.update("jax_enable_preemption_service", False)
    auto = config.coordinator == "auto"
    given = {} if auto else _given(config)
    _say_at_abort(
        f"not all processes of the run found one another within {config.start_timeout:g} s "
        f"(coordinator {config.coordinator}). Start all of them, with the same address, "
        "which must lead to process 0 from every host; --hosts.start-timeout gives them "
        "longer."
    )
    try:
        jax.distributed.initialize(
            **given,
            initialization_timeout=math.ceil(config.start_timeout),
            heartbeat_timeout_seconds=config.heartbeat_timeout,
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        if not auto:
            raise
        raise ValueError(
            f"coordinator auto: JAX found no cluster here that it knows, such as Cloud "
            f"TPU, GKE, SLURM or Open MPI ({error}); give HOST:PORT, and a count and index."
        ) from error


def _given(config: HostsConfig) -> dict[str, Any]:
    """What `jax.distributed.initialize` is told; raises ValueError on a bad address."""
    name, _, port = str(config.coordinator).rpartition(":")
    try:
        found = socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        found, why = [], f" ({error})"
    else:
        why = ""
    if not found or not 0 < int(port) < 2**16:
        raise ValueError(
            "coordinator must be HOST:PORT, with a host that is known here and a port up "
            f"to 65535, got {config.coordinator}{why}."
        )
    address = found[0][4][0]
    # Whoever reaches the port can join in: where all is on one machine, that alone can.
    local = ipaddress.ip_address(address).is_loopback
    family = found[0][0] if local else socket.AF_INET
    if config.index == 0:
        try:  # in C++ it would be a segmentation fault
            socket.create_server(
                (address if local else "", int(port)), family=family
            ).close()
        except OSError as error:
            raise ValueError(
                f"process 0 cannot listen on port {port} for coordinator "
                f"{config.coordinator} ({error.strerror}); choose another."
            ) from None
    bound = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return {
        "coordinator_address": config.coordinator,
        "num_processes": config.count,
        "process_id": config.index,
        "coordinator_bind_address": bound if local else None,  # None: all interfaces
        "cluster_detection_method": "deactivate",  # what is given is meant
    }


def agree(what: Facts) -> list[Facts]:
    """What every process says, in the order of the processes; all of them call it."""
    if this_host()[1] == 1:
        return [what]
    text = np.frombuffer(json.dumps(what).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded)
    return [
        json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)
    ]


def check_alike(what: Facts) -> None:
    """Raises ValueError, in all processes, naming what is not the same in all of them."""
    everyone = agree(what | {"host": socket.gethostname()})
    first = everyone[0]
    different = [
        f"{name} is {first.get(name)} in process 0 ({first['host']}) and {facts.get(name)} "
        f"in process {index} ({facts['host']})"
        for index, facts in enumerate(everyone)
        for name in sorted((first.keys() | facts.keys()) - {"host"})
        if facts.get(name) != first.get(name)
    ]
    if different:
        raise ValueError(
            f"the processes of a run must do the same: {'; '.join(different)}. Start "
            "all of them with the same command, from the same code."
        )


def together(action: Callable[[], Result]) -> Result:
    """What `action` gives; where it fails in one process it fails in all.

    Raises what `action` raises, and in the other processes, where it did not, the same
    said of the first that it did in: as OSError or as ValueError.
    """
    if this_host()[1] == 1:
        return action()
    result = failure = None
    try:
        result = action()
    except Exception as error:
        failure = error
    kind = "disk" if isinstance(failure, OSError) else "other" if failure else ""
    host = socket.gethostname()
    everyone = agree({"kind": kind, "text": str(failure or ""), "host": host})
    if failure:
        raise failure
    for index, there in enumerate(everyone):
        if there["kind"]:
            error = OSError if there["kind"] == "disk" else ValueError
            raise error(f"process {index} ({there['host']}): {there['text']}")
    return result


def introduce(code: str) -> list[str]:
    """A line for each process: where it runs, its devices and its versions (`code`).

    Raises nothing where they differ: `check_alike` does.
    """
    meet()
    here = arm_devices()
    facts = {
        **{"host": socket.gethostname(), "pid": str(os.getpid())},
        **{"devices": describe(here), "jax": jax.__version__, "code": code},
    }
    lines = [
        f"process {index}: {x['host']}, pid {x['pid']}, {x['devices']}, jax {x['jax']}, "
        f"code {x['code']}"
        for index, x in enumerate(agree(facts))
    ]
    _say_at_abort(
        "JAX has ended this process since another one of the run is gone; the lines above "
        'tell which ("leader" is the coordinator, as a rule process 0). Run the same '
        "command again on all hosts. The processes were:\n" + "\n".join(lines)
    )
    return lines


def leave(status: int) -> NoReturn:
    """End this process with `status`.

    JAX waits there for the other processes, for five minutes. After a failure that is too
    long: they may hang, and only the end of this one lets them notice.
    """
    several = jax.distributed.is_initialized()
    if not several:  # a signal to stop comes too late, and must not become the status
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if status and several:
        others = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        others.start()
        others.join(LEAVE_WITHIN)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


_last_words = b""


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _at_abort(number: int) -> None:
    os.write(sys.__stderr__.fileno(), _last_words)
    os._exit(HOST_LOST)


def _say_at_abort(text: str) -> None:
    """What to say where JAX's C++ ends this process; Python's own handlers come too late,
    since they wait for the main thread, and abort() does not."""
    global _last_words
    _last_words = f"\n{text}\n".encode()
    abort = ctypes.CDLL(None).signal
    abort.argtypes, abort.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    abort(6, ctypes.cast(_at_abort, ctypes.c_void_p))
