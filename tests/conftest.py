"""Loads the repository root as the package `comfyui_ddm`, as its hosts do by path, and tells what was skipped."""

import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

ROOT = Path(__file__).resolve().parent.parent
WARM = pytest.StashKey()

if "comfyui_ddm" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "comfyui_ddm", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_ddm"] = module
    spec.loader.exec_module(module)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests of models of full size")


def pytest_configure(config):
    """Let the trainers that tests start begin in a warm process, one for all workers (see `warm/sitecustomize.py`)."""
    if "DDM_WARM" not in os.environ:
        config.stash[WARM] = TemporaryDirectory(prefix="ddm-warm-")
        os.environ["DDM_WARM"] = config.stash[WARM].name
        paths = str(ROOT / "tests" / "warm"), os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """All tests of a host run in one worker, which has its server and its browser; of the others, each file does."""
    from xdist.scheduler import LoadScopeScheduling

    class ByHost(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return file if "unit/" in file else file.rsplit("/", 1)[0]

    config.option.loadscopereorder = False
    return ByHost(config, log)


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: "unit" in item.path.parts)  # what takes longest begins first
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: models of full size; add --slow to run them"))


def pytest_unconfigure(config):
    """Say last, after pytest's own summary, how many tests did not run, and why."""
    if WARM in config.stash:
        config.stash[WARM].cleanup()  # what is warm ends then
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        reporter.write_line(f"{count} {'test was' if count == 1 else 'tests were'} skipped: {reason}", yellow=True)


@pytest.fixture(scope="session")
def browser():
    """A running Chromium, one for the pages of all hosts: playwright runs only one loop at a time."""
    from .chromium import chromium

    try:
        with chromium() as running:
            yield running
    except LookupError as error:
        pytest.skip(f"the pages need a browser: {error}")
