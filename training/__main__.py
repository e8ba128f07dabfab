"""`ddm`, `python -m comfyui_ddm.training`, `python -m training` from the repository's root, or this file by path."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line. What goes into a file or another program is UTF-8; a console gets what it can show."""
    from .commands.app import app

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")

    app(prog_name="ddm")


def _load_root() -> None:
    """Load the repository's root as the package `comfyui_ddm`, which `python -m training` knows nothing of."""
    from importlib.util import module_from_spec, spec_from_file_location

    root = Path(__file__).resolve().parent.parent
    spec = spec_from_file_location("comfyui_ddm", root / "__init__.py", submodule_search_locations=[str(root)])
    sys.modules["comfyui_ddm"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if __package__ != "comfyui_ddm.training":
        # Run as a script, which works wherever Python and the file are, our folder would hide other packages' modules.
        if Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
            sys.path.pop(0)
        _load_root()
        __package__ = "comfyui_ddm.training"
    main()
