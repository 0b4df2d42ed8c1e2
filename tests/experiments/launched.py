# SPDX-License-Identifier: Apache-2.0
"""A stand-in for experiments.run; `WAY FOLDER --hosts...` ends in the named way."""

import os
import signal
import sys
import time
from pathlib import Path

way, folder, *hosts = sys.argv[1:]
index = int(hosts[-1].removeprefix("--hosts.index="))
heard = []
signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
devices = os.environ["JAX_NUM_CPU_DEVICES"], os.environ["JAX_PLATFORMS"]
(Path(folder) / f"{index}.txt").write_text(" ".join([*hosts, *devices]))
if way == "well":
    sys.exit(0)
if way == "killed" and index == 1:
    os.kill(os.getpid(), signal.SIGKILL)
if way == "badly" and index == 1:
    sys.exit(3)
while not heard:
    time.sleep(0.02)
time.sleep(0.3)  # saving
# In its own group the process gets Ctrl-C only from the launcher, not from the terminal.
alone = os.getpgrp() == os.getpid()
(Path(folder) / f"{index}.txt").write_text(f"heard {len(heard)}, alone {alone}")
sys.exit(75)
