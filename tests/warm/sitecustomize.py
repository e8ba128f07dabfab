"""Lets trainers that tests start, directly or through a host, begin in a process that has imported torch already.

Python imports this file before anything else where `PYTHONPATH` has its folder. A trainer then sends what it was called
with, and its standard streams, to `forks.py`, which forks for it; here only signals are passed on and the exit code
waited for. Killed, it takes the fork with it. Where there is no such process to ask, all goes on as usual.
"""

import os
import sys

# Modules and scripts that begin there.
MODULES = {"training", "torch.distributed.run"}
SCRIPTS = ("training/__main__.py", "logged.py")


def called() -> bool:
    """Whether this Python was started for one of them."""
    arguments = [argument for argument in sys.orig_argv[1:] if argument != "-u"]
    if arguments[:1] == ["-m"]:
        return len(arguments) > 1 and arguments[1] in MODULES
    return bool(arguments) and arguments[0].endswith(SCRIPTS)


def main(place: str) -> None:
    """Be what the fork is, as far as whoever started us can tell."""
    import hashlib
    import json
    import signal
    import socket
    import subprocess
    import time
    from pathlib import Path

    # What is fixed once torch is imported.
    kind = f"{sys.executable}\0{os.environ.get('OMP_NUM_THREADS')}"
    address = f"{place}/{hashlib.sha256(kind.encode()).hexdigest()[:16]}"
    link = socket.socket(socket.AF_UNIX)
    for attempt in range(200):
        try:
            link.connect(address)
            break
        except OSError:
            if attempt == 0:
                forks = Path(__file__).with_name("forks.py")
                quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
                subprocess.Popen([sys.executable, forks, address], start_new_session=True, **quiet)
            time.sleep(0.05)
    else:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: link.send(bytes([number])))
    request = json.dumps([str(Path.cwd()), sys.orig_argv[1:], dict(os.environ)]).encode()
    socket.send_fds(link, [len(request).to_bytes(4, "big")], [0, 1, 2])
    link.sendall(request)
    code = json.loads(link.recv(16) or "1")
    if code < 0:  # a signal ended it
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if sys.platform == "linux" and os.environ.get("DDM_WARM") and called():
    main(os.environ["DDM_WARM"])
