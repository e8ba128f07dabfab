"""A real Forge as a subprocess, and what the tests ask of it. Nothing but the standard library and Pillow."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

PACK = Path(__file__).resolve().parent.parent.parent
CHECKPOINT = "small.safetensors"
# What runs Forge on any machine, and asks it to load nothing from elsewhere.
FLAGS = (
    "--skip-prepare-environment",
    "--skip-torch-cuda-test",
    "--skip-version-check",
    "--skip-python-version-check",
    "--always-cpu",
    "--attention-pytorch",
    "--api",
)
SETTINGS = {"samples_format": "png", "return_grid": False, "grid_save": False, "show_progress_every_n_steps": 0}
SHOT = {"seed": 1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 3, "sampler_name": "Euler"}


def find_forge() -> Path:
    """Forge's folder: $FORGE_PATH, else ~/forge/webui.

    Raises:
        FileNotFoundError: there is none; the message says where was looked.
    """
    place = Path(os.environ.get("FORGE_PATH") or "~/forge/webui").expanduser()
    if (place / "launch.py").is_file() and (place / "modules_forge").is_dir():
        return place.resolve()
    raise FileNotFoundError(f"no Forge in {place}: set FORGE_PATH to the folder that holds its launch.py")


def forge_python(forge: Path) -> str:
    """The Python of its own virtual environment, else ours."""
    found = [forge / place for place in ("venv/bin/python", "venv/Scripts/python.exe") if (forge / place).is_file()]
    return str(found[0]) if found else sys.executable


def link(part: Path, place: Path) -> None:
    """Link a file or folder, or copy it where the system lets nobody make links."""
    try:
        place.symlink_to(part, target_is_directory=part.is_dir())
    except OSError:
        (shutil.copytree if part.is_dir() else shutil.copy)(part, place)


@dataclass(frozen=True)
class Made:
    """What a call made: the images, RGB, and the infotext of each."""

    images: Sequence[Image.Image]
    infotexts: Sequence[str]

    def setting(self, name: str, image: int = 0) -> str | None:
        """The value of a setting in an image's infotext."""
        found = re.search(rf'(?:^|, ){re.escape(name)}: ("[^"]*"|[^,]*)', self.infotexts[image].splitlines()[-1])
        return found[1].strip('"') if found else None


class Forge:
    """A server with this project linked into an otherwise empty data folder.

    Attributes:
        data: the data folder; models/ and outputs/ lie below it.
        host: Forge's folder.
    """

    def __init__(self, host: Path, data: Path, *, extension: bool = True) -> None:
        self.host, self.data = host, data
        self._made: dict[str, Made] = {}
        self.log_file = data / "server.log"
        for folder in ("extensions", "models/Stable-diffusion", "models/Lora", "models/ddm"):
            (data / folder).mkdir(parents=True, exist_ok=True)
        (data / "config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
        if extension:
            place = data / "extensions" / "ComfyUI-DDM"
            place.mkdir()
            for part in PACK.iterdir():
                if not part.name.startswith("."):  # the host would ask git for its remote
                    link(part, place / part.name)

    def __enter__(self) -> "Forge":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        quiet = {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "GRADIO_ANALYTICS_ENABLED": "0",
        }
        places = [
            "--data-dir",
            str(self.data),
            "--gradio-allowed-path",
            str(self.host),
        ]  # else its own scripts are refused
        command = [forge_python(self.host), "launch.py", *FLAGS, "--port", str(self.port), *places]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.host,
                env={**os.environ, **quiet},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and self.process.poll() is None:
            if "Startup time" in self.log():  # it answers some seconds before it knows the controls of scripts
                return self
            time.sleep(0.5)
        self.__exit__()
        raise AssertionError(f"Forge did not start:\n{self.log()[-4000:]}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def loras(self) -> Path:
        """Its folder of LoRAs."""
        return self.data / "models" / "Lora"

    def log(self) -> str:
        """All that it has printed so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def post(self, path: str, data: Mapping[str, Any]) -> Any:
        """POST as JSON, and read JSON."""
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.read().decode()}\n{self.log()[-4000:]}") from None

    def known(self, prompt: str = "a doctor", ddm: Sequence[Any] = (), **more: Any) -> Made:
        """Images to compare others with, made once: see `make`."""
        key = json.dumps([prompt, list(ddm), more], sort_keys=True)
        if key not in self._made:
            self._made[key] = self.make(prompt, ddm, **more)
        return self._made[key]

    def make(self, prompt: str = "a doctor", ddm: Sequence[Any] = (), page: str = "txt2img", **more: Any) -> Made:
        """Make images over the API; `ddm` are the values of our controls, in their order."""
        ours = {"alwayson_scripts": {"ddm": {"args": list(ddm)}}} if ddm else {}
        answer = self.post(f"/sdapi/v1/{page}", {"prompt": prompt, **SHOT, **ours, **more})
        images = [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in answer["images"]]
        return Made(images, json.loads(answer["info"])["infotexts"])
