"""A real ComfyUI server as a subprocess, and what the tests ask of it. Nothing but the standard library."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parent.parent.parent
EMBEDDED = "tiny_people (comes with ComfyUI-DDM)"
ADAPTER = "tiny_people_fair.safetensors"

# A newer host, which knows more models, if one is named; it runs in the environment of the usual one.
NEWER = Path(os.environ.get("COMFYUI_NEWER_PATH", "no newer ComfyUI is named")).expanduser()
# What a newer host imports and its class of a model does not need.
STUBS = "comfy.zluda comfy_kitchen comfy_kitchen.tensor comfy_aimdo comfy_aimdo.control comfy_aimdo.host_buffer "
STUBS += "comfy_aimdo.model_vbar comfy_aimdo.torch comfy_aimdo.vram_buffer comfy_aimdo.model_mmap torchaudio "
STUBS += "torchaudio.functional"

Graph = Mapping[str, Mapping[str, Any]]


class Refused(Exception):
    """The server did not take the graph: HTTP 400.

    Attributes:
        node_errors: by node id, the sentences of its errors.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(answer, ensure_ascii=False))
        self.answer = answer
        self.node_errors = {
            node: [f"{one['message']}: {one['details']}" for one in found["errors"]]
            for node, found in (answer.get("node_errors") or {}).items()
        }


class Failed(Exception):
    """A node raised while the graph ran; the message is what the user reads."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error["exception_message"].strip())
        self.error = error


def find_host() -> Path:
    """ComfyUI's folder: $COMFYUI_PATH, else the parents when the pack lies in custom_nodes/, else ~/comfy/ComfyUI.

    Raises:
        FileNotFoundError: there is none; the message says where was looked.
    """
    given = os.environ.get("COMFYUI_PATH")
    parents = [PACK.parents[1]] if PACK.parent.name == "custom_nodes" else []
    places = [Path(given).expanduser()] if given else [*parents, Path.home() / "comfy" / "ComfyUI"]
    for place in places:
        if (place / "main.py").is_file() and (place / "comfy").is_dir():
            return place.resolve()
    raise FileNotFoundError(
        f"no ComfyUI in {' or '.join(map(str, places))}: set COMFYUI_PATH to the folder that holds its main.py"
    )


def host_python(host: Path) -> str:
    """The Python of a host: that of its own venv, else ours."""
    found = [host / place for place in ("venv/bin/python", "venv/Scripts/python.exe") if (host / place).is_file()]
    return str(found[0]) if found else sys.executable


def run_in_host(host: Path, code: str, *arguments: str, timeout: float = 300, python: str | None = None) -> str:
    """Run Python code inside a host's folder, with its modules to import; return what it printed.

    Args:
        python: another one than the host's own.

    Raises:
        subprocess.CalledProcessError: with the output, when it failed.
    """
    done = subprocess.run(
        [python or host_python(host), "-c", code, *arguments],
        cwd=host,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if done.returncode:
        raise AssertionError(f"the host's Python ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def environment() -> dict[str, str]:
    """Our environment, with one thread: small models only wait for threads."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


class Server:
    """A server with the pack linked into an otherwise empty base directory.

    Attributes:
        base: the base directory; models/, input/ and output/ lie below it.
        host: ComfyUI's folder.
    """

    def __init__(self, host: Path, base: Path, *options: str) -> None:
        self.host, self.base, self.flags = host, base, options
        self.log_file = base / "server.log"
        self.client = uuid.uuid4().hex
        nodes = base / "custom_nodes"
        for folder in (nodes, base / "input", base / "output", base / "models" / "loras", base / "models" / "ddm"):
            folder.mkdir(parents=True, exist_ok=True)
        link = nodes / "ComfyUI-DDM"
        if not link.exists():
            try:
                link.symlink_to(PACK, target_is_directory=True)
            except OSError:  # Windows, without the right to make links
                shutil.copytree(PACK, link, ignore=shutil.ignore_patterns(".git", ".venv", "demo_output"))

    def command(self, *options: str) -> list[str]:
        """The command line of the server."""
        fixed = ["--cpu", "--base-directory", str(self.base), "--disable-api-nodes"]
        return [host_python(self.host), "main.py", *fixed, "--database-url", "sqlite:///:memory:", *options]

    def start(self, timeout: float = 180) -> "Server":
        """Start it, and wait until it answers.

        Raises:
            AssertionError: it ended, or did not answer in time; the message holds the end of its log.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = ["--listen", "127.0.0.1", "--port", str(self.port), *self.flags]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                self.command(*options),
                cwd=self.host,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.2)
        self.stop()
        raise AssertionError(f"ComfyUI did not start (exit code {self.process.poll()}):\n{self.log()[-4000:]}")

    def stop(self) -> None:
        """End the server."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        """All that the server has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def request(self, path: str, data: Any = None, timeout: float = 60, **headers: str) -> bytes:
        """GET a path, or POST `data` as JSON to it.

        Raises:
            urllib.error.HTTPError: the server answered with an error.
        """
        body = None if data is None else json.dumps(data).encode()
        kind = {} if data is None else {"Content-Type": "application/json"}
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, body, {**kind, **headers}), timeout=timeout
        ) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return json.loads(self.request(path))

    def options(self, node: str, name: str) -> list[str]:
        """What a combo of a node offers."""
        inputs = self.get(f"/object_info/{node}")[node]["input"]
        kind, more = ({**inputs["required"], **inputs.get("optional", {})}[name] + [{}])[:2]
        return kind if isinstance(kind, list) else more["options"]

    def queue(self, graph: Graph) -> str:
        """Queue a graph in API format; return its prompt id.

        Raises:
            Refused: it is not valid.
        """
        try:
            answer = json.loads(self.request("/prompt", {"prompt": graph, "client_id": self.client}))
        except urllib.error.HTTPError as error:
            raise Refused(json.loads(error.read())) from None
        if answer.get("node_errors"):  # some of the outputs are valid, others are not
            raise Refused(answer)
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 120) -> dict[str, Any]:
        """Wait for a queued graph; return its outputs by node id.

        Raises:
            Failed: a node raised.
            TimeoutError: it is not done in time.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server has ended:\n{self.log()[-4000:]}"
            history = self.get(f"/history/{prompt_id}").get(prompt_id)
            if history and history["status"]["completed"]:
                return history["outputs"]
            for name, message in history["status"]["messages"] if history else []:
                if name == "execution_error":
                    raise Failed(message)
                if name == "execution_interrupted":
                    raise InterruptedError(prompt_id)
            time.sleep(0.05)
        raise TimeoutError(f"{prompt_id} took more than {timeout} s:\n{self.log()[-2000:]}")

    def run(self, graph: Graph, timeout: float = 120) -> dict[str, Any]:
        """`queue` and `wait`."""
        return self.wait(self.queue(graph), timeout)

    def view(self, file: Mapping[str, str]) -> bytes:
        """A file that a graph has written, by its reference in the outputs."""
        return self.request("/view?" + urllib.parse.urlencode(file))
