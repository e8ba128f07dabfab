"""The door of A1111 and Forge, which load every file in this folder: one script, one tab, one axis.

What is behind it lies in `webui/`. Reloading the page's scripts keeps what is loaded, a running training too.
"""

import importlib.util
import sys
from pathlib import Path


def _load_root() -> None:
    """Load the folder above as the package `comfyui_ddm`, once."""
    root = Path(__file__).resolve().parent.parent
    spec = importlib.util.spec_from_file_location(
        "comfyui_ddm", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    sys.modules["comfyui_ddm"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if "comfyui_ddm" not in sys.modules:
    _load_root()

from comfyui_ddm.webui.register import register  # noqa: E402
from comfyui_ddm.webui.script import DDMScript  # noqa: E402, F401  (the host looks for classes in this file)

register()
