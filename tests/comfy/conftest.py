"""One real server for all tests of the nodes; without a host they are skipped, and say why."""

import numpy as np
import pytest
from PIL import Image

from .server import Server, find_host


@pytest.fixture(scope="session")
def host():
    """ComfyUI's folder."""
    try:
        return find_host()
    except FileNotFoundError as error:
        pytest.skip(f"the nodes need a ComfyUI to run in: {error}")


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    """A running server with the pack; its log is kept in `server.log()`."""
    with Server(host, tmp_path_factory.mktemp("comfy")) as running:
        yield running


def write_shades(root):
    """12 dark and 4 light images in subfolders of a folder."""
    rng = np.random.default_rng(0)
    for name, level, count in (("dark", 40, 12), ("light", 210, 4)):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.clip(rng.normal(level, 12, (64, 64, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(scope="session")
def folder(server):
    """input/Bilder 灰/: 12 dark and 4 light images in subfolders."""
    root = server.base / "input" / "Bilder 灰"
    write_shades(root)
    return root.name
