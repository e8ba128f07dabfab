"""The package under test: this checkout, whatever else is installed."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def load_package() -> None:
    """Load the repository's root as `comfyui_ddm`; its folders, this one too, are then subpackages."""
    if "comfyui_ddm" in sys.modules:
        return
    spec = spec_from_file_location("comfyui_ddm", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    sys.modules["comfyui_ddm"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
