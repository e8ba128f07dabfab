"""A process that has imported torch and what is built on it, and forks for each trainer that asks (`sitecustomize.py`).

`python forks.py ADDRESS`; it ends when the folder of that address is gone.
"""

import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

# What a trainer imports, and of packages that import their parts when they are asked for, which.
IMPORTED = dict.fromkeys(("torch._dynamo", "torch.distributed.run", "accelerate", "peft", "scipy.stats", "typer"), ())
IMPORTED |= dict.fromkeys(("sklearn.decomposition", "sklearn.linear_model", "sklearn.mixture", "rich.progress"), ())
IMPORTED["diffusers"] = ("AutoencoderKL", "DDIMScheduler", "DDPMScheduler", "UNet2DConditionModel")
IMPORTED["transformers"] = ("CLIPTextModel", "CLIPTokenizer")


def requests(address: Path) -> tuple[str, list[str], dict[str, str]]:
    """Wait for trainers; returns in their forks alone, with folder, arguments and environment of the one."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.bind(str(address))
    except OSError:  # another one was quicker
        sys.exit()
    server.listen(64)
    for package, names in IMPORTED.items():
        with suppress(Exception):  # the trainer does without, or says so
            module = import_module(package)
            for name in names:
                getattr(module, name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while address.parent.is_dir():
        if not select.select([server], [], [], 1)[0]:
            continue
        link = server.accept()[0]
        if os.fork():
            link.close()
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if request := one(link):
            return request
    sys.exit()


def one(link: socket.socket) -> tuple[str, list[str], dict[str, str]]:
    """Fork a trainer, pass signals on to it, and tell its exit code; returns in the trainer alone."""
    length, streams, _, _ = socket.recv_fds(link, 4, 3)
    request = link.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    ended, open_meanwhile = os.pipe()
    process = os.fork()
    for number, stream in enumerate(streams):
        if not process:
            os.dup2(stream, number)
        os.close(stream)
    if not process:
        link.close()
        return json.loads(request)
    os.close(open_meanwhile)
    while ended not in select.select([ended, link], [], [])[0]:
        number = link.recv(1)
        os.kill(process, number[0] if number else signal.SIGKILL)
        if not number:
            break
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):
        link.send(json.dumps(code).encode())
    os._exit(0)


folder, arguments, environment = requests(Path(sys.argv[1]))
os.chdir(folder)
os.environ.clear()
os.environ.update(environment)
# Anew, since those that are there know what they were opened on.
for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    old = getattr(sys, name)
    setattr(sys, name, os.fdopen(old.fileno(), mode, 1 if name == "stderr" else -1, closefd=False))
arguments = [argument for argument in arguments if argument != "-u"]
if arguments[0] == "-m":
    sys.path[0] = folder
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
else:
    sys.path[0] = str(Path(arguments[0]).parent)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
