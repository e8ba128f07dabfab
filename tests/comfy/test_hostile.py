"""Files and words that are made to do harm, in a real host: what is good beside them goes on working."""

import json
import os
import shutil
import urllib.error

import pytest

from ..hostile import HOSTILE, write_hostile
from . import graphs
from .server import ADAPTER, PACK, Failed, Refused

SHIPPED = PACK / "examples" / "adapters" / ADAPTER
GOOD = "a good one.safetensors"


@pytest.fixture
def loras(server):
    """The server's folder of LoRAs, with a good adapter among hostile ones; emptied after the test."""
    folder = server.base / "models" / "loras"
    write_hostile(SHIPPED, folder)
    shutil.copy(SHIPPED, folder / GOOD)
    yield folder
    for path in folder.iterdir():
        path.unlink()


def graph(name=GOOD, prompt=graphs.PROMPT):
    return graphs.load() | graphs.adapter(1.0, name) | graphs.sample("adapter", prompt=prompt, steps=1, batch=1)


def strict(server, path):
    """JSON as browsers read it."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(server.request(path), parse_constant=refuse)


def said(server, prompt):
    """The sentence with which a graph ends, or nothing where it runs."""
    try:
        server.run(prompt)
    except (Refused, Failed) as error:
        told = error.node_errors.values() if isinstance(error, Refused) else [[str(error)]]
        text = " ".join(sentence for sentences in told for sentence in sentences)
        assert "Traceback" not in text and text.encode("utf-8")
        return text
    return ""


def test_a_good_adapter_is_listed_and_runs_among_eleven_hostile_ones(server, loras):
    for node, name in (("DDMLoadAdapter", "adapter"), ("DDMAlphaSchedule", "adapter"), ("LoraLoader", "lora_name")):
        assert GOOD in server.options(node, name)
    assert server.run(graph())["adapter"]["ddm_panel"][0]["verdict"]["tone"] in ("fair", "unknown")
    assert GOOD in strict(server, "/models/loras")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_adapter_is_used_or_refused_and_then_another_prompt_runs(server, loras, name):
    text = said(server, graph(f"{name}.safetensors"))
    assert (text == "") == (name in ("a page", "control characters")), text
    strict(server, "/history")
    assert said(server, graph()) == "" and server.process.poll() is None


def test_a_hostile_name_ends_no_worker_and_then_another_prompt_runs(server, loras):
    for name in (
        os.fsdecode(b"caf\xe9.safetensors"),
        "a\nb\x1b[31m.safetensors",
        "<img src=x onerror=alert(1)>.safetensors",
    ):
        try:
            shutil.copy(SHIPPED, loras / name)
        except OSError:  # a file system of Unicode alone
            continue
        server.get("/object_info/DDMLoadAdapter")
        said(server, graph(name))
        (loras / name).write_bytes(b"no adapter")
        assert said(server, graph(name)) != ""
        strict(server, "/history")
        assert said(server, graph()) == ""


@pytest.mark.parametrize(
    "text", ["\ud800 a doctor", "\x00\x1b[31m", "a" * 100_000, "(" * 5000, "<script>alert(1)</script>"]
)
def test_hostile_words_in_every_input_end_no_worker(server, text):
    hostile = graphs.reported(prompt=text, target=text, collection=text)
    hostile["yes"]["inputs"]["text"] = text if "\ud800" not in text else "a doctor"  # the host's own tokenizer
    said(server, hostile)
    hostile["report"]["inputs"]["target"] = "uniform"
    said(server, hostile)
    said(server, graphs.audit(text, groups=text))
    said(server, graphs.train(text, name=text, groups=text))
    said(server, graphs.measured(text, target=text))
    strict(server, "/history")
    assert said(server, graph(ADAPTER)) == "" and server.process.poll() is None


def test_a_request_of_another_page_queues_nothing(server):
    """Cross-site requests: the host guards its addresses, and ours as well."""
    before = server.get("/history").keys()
    body = {"prompt": graph(ADAPTER), "client_id": server.client}
    for path in ("/prompt", "/ddm/trainings/stop", "/ddm/guidance/reset"):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            server.request(path, body, Origin="http://evil.example")
    queued = server.get("/queue")
    assert server.get("/history").keys() == before and not queued["queue_running"] and not queued["queue_pending"]


def test_a_page_whose_name_leads_here_can_do_what_the_host_lets_it_and_no_more_with_ours(server):
    """DNS rebinding: such a page is of the same origin, so neither host nor pack can tell it; SECURITY.md says so."""
    page = {"Host": "evil.example:8188", "Origin": "http://evil.example:8188"}
    assert json.loads(server.request("/queue", **page))
    assert json.loads(server.request("/ddm/trainings", **page)) == server.get("/ddm/trainings")
    for path, body in (
        ("/ddm/trainings/stop", {"workflow": None, "node": "../../etc/passwd"}),
        ("/ddm/trainings/stop", {"workflow": [], "node": {}}),
        ("/ddm/guidance/reset", {"key": "../../etc/passwd"}),
    ):
        try:
            answer = server.request(path, body, **page).decode()
        except urllib.error.HTTPError as error:
            assert error.code in (400, 404)
            answer = error.read().decode()
        assert "passwd" not in answer and str(server.base) not in answer
