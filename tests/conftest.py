"""Loads the repository root as the package `comfyui_ddm`, as its hosts do by path."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if "comfyui_ddm" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "comfyui_ddm", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_ddm"] = module
    spec.loader.exec_module(module)
