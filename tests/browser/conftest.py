"""A real browser on a real server; without either the tests are skipped, and say why."""

import json

import pytest

from ..comfy.server import PACK, Server, find_host
from .page import ComfyPage

EXAMPLES = PACK / "example_workflows"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running server with the pack."""
    try:
        host = find_host()
    except FileNotFoundError as error:
        pytest.skip(f"the front end needs a ComfyUI to run in: {error}")
    with Server(host, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def comfy(browser, server):
    """A page that is not open yet. At the end of the test it must not have complained."""
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    page = ComfyPage(context.new_page(), server)
    yield page
    context.close()
    assert page.complaints == []


@pytest.fixture(scope="session")
def draws_panels(browser, server):
    """Whether the new renderer of this front end shows elements of extensions yet."""
    context = browser.new_context()
    drawn = ComfyPage(context.new_page(), server).open(vue=True).draws_panels()
    context.close()
    return drawn


@pytest.fixture(params=[False, True], ids=["classic", "vue"])
def vue(request):
    """Both renderers of nodes."""
    if request.param and not request.getfixturevalue("draws_panels"):
        pytest.skip("this front end's new renderer shows no elements of extensions yet")
    return request.param


@pytest.fixture
def example():
    """Reads an example workflow by its name."""
    return lambda name: json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
