"""ComfyUI's page in a real browser: what a user does there, and what the page complains of."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..comfy.server import Server

# What the host's own page complains of, with or without us.
KNOWN = re.compile(
    r"user\.css|favicon\.ico|/userdata[/?]|reading 'id'|graph accessed before initialization|huggingface\.co|"
    r"ERR_NAME_NOT_RESOLVED|ERR_INTERNET_DISCONNECTED|ERR_CONNECTION|ERR_PROXY|comfy\.org|comfyregistry|googletagmanager|"
    r"Content Security Policy|api\.github\.com|/docs/\w+/\w+\.md"
)


class ComfyPage:
    """One open page.

    Args:
        page: a playwright page, not yet loaded.
        server: the server to open.

    Attributes:
        complaints: errors that the page has logged and that are not the host's own.
    """

    def __init__(self, page: Any, server: Server) -> None:
        self.page, self.server = page, server
        self.complaints: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complain(str(error)))

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self._complain(f"{message.text} {message.location.get('url', '')}")

    def _complain(self, text: str) -> None:
        if not KNOWN.search(text):
            self.complaints.append(text)

    def open(self, vue: bool = False, palette: str = "dark") -> "ComfyPage":
        """Load the page with a renderer and a colour palette, and wait until it is ready."""
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue, "Comfy.ColorPalette": palette}
        quiet = {"Comfy.Workflow.Persist": False, "Comfy.Workflow.ShowMissingModelsWarning": False}
        self.server.request("/settings", settings | quiet)
        self.page.goto(self.server.url)
        ready = "() => Boolean(window.app?.graph && window.LiteGraph?.registered_node_types?.DDMLoadAdapter)"
        self.page.wait_for_function(ready, timeout=60_000)
        self.page.wait_for_function("() => !document.querySelector('#splash-loader')", timeout=30_000)
        self.page.wait_for_timeout(1000)
        self.js("() => app.graph.clear()")  # the host opens with a workflow of its own
        return self

    def choose_template(self, name: str) -> None:
        """Open one of our templates."""
        self.js("() => void app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.choose(name)

    def choose(self, name: str) -> None:
        """Choose it in the template browser, which shows a dozen until one scrolls or searches."""
        self.page.get_by_text("ComfyUI-DDM", exact=True).first.click()
        self.page.get_by_role("dialog").get_by_placeholder(re.compile("^Search")).last.fill(name)
        self.page.get_by_title(name, exact=True).first.click()

    def draws_panels(self) -> bool:
        """Whether this renderer shows elements of extensions in nodes at all; the first new ones did not."""
        drawn = self.js(
            """async () => {
                const node = LiteGraph.createNode("DDMFairnessReport");
                app.graph.add(node);
                await new Promise((done) => setTimeout(done, 1000));
                const height = node.widgets.find((one) => one.name === "ddm_panel").element.offsetHeight;
                app.graph.clear();
                return height > 0;
            }"""
        )
        return bool(drawn)

    def js(self, code: str, argument: Any = None) -> Any:
        """Evaluate an expression or a function in the page."""
        return self.page.evaluate(code, argument)

    def load(self, workflow: Mapping[str, Any]) -> None:
        """Load a workflow, as by dropping its file onto the page."""
        self.js("(workflow) => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function("(n) => app.graph._nodes.length === n", arg=len(workflow["nodes"]))

    def saved(self) -> dict[str, Any]:
        """The graph as the page would save it."""
        return json.loads(self.js("() => JSON.stringify(app.graph.serialize())"))

    def widget(self, node: int, name: str, value: Any) -> None:
        """Set a widget of a node, as its control does."""
        self.js(
            """([id, name, value]) => {
                const widget = app.graph.getNodeById(id).widgets.find((one) => one.name === name);
                widget.value = value;
                widget.callback?.(value);
            }""",
            [node, name, value],
        )

    def queue(self, press: Callable[[], None] | None = None) -> str:
        """Queue the graph, by pressing a button if one is given; return its prompt id."""
        before = {one for one in self._prompts()}
        press() if press else self.js("() => void app.queuePrompt(0)")
        for _ in range(200):
            new = [one for one in self._prompts() if one not in before]
            if new:
                return new[0]
            self.page.wait_for_timeout(50)
        raise AssertionError("the page did not queue the graph")

    def _prompts(self) -> Iterator[str]:
        queued = self.server.get("/queue")
        for job in (*queued["queue_running"], *queued["queue_pending"]):
            yield job[1]
        yield from self.server.get("/history")

    def run(self, timeout: float = 300) -> dict[str, Any]:
        """Queue the graph, and wait until it is done; return its outputs by node id."""
        outputs = self.server.wait(self.queue(), timeout)
        self.page.wait_for_timeout(600)  # the last messages are on their way to the page
        return outputs

    def panel(self, node: int) -> Any:
        """The panel element of a node, as a playwright handle."""
        found = self.page.evaluate_handle(
            "(id) => app.graph.getNodeById(id).widgets.find((one) => one.name === 'ddm_panel').element", node
        )
        return found.as_element()

    def text(self, node: int) -> str:
        """All text in the panel of a node, folded parts too."""
        return self.panel(node).text_content()

    def frame(self, nodes: Sequence[int] = ()) -> None:
        """Move the view so that the whole graph is in it, or only these nodes."""
        self.js(
            """(nodes) => {
                const all = app.graph._nodes;
                const wanted = nodes.length ? all.filter((node) => nodes.includes(node.id)) : all;
                const boxes = wanted.map((node) => [...node.pos, ...node.size]);
                const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])) - (i ? 60 : 30));
                const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])) + 30);
                const view = app.canvas.canvas.getBoundingClientRect();
                const scale = Math.min(view.width / (right - left), view.height / (bottom - top), 2);
                app.canvas.ds.scale = scale;
                const middle = [(left + right) / 2, (top + bottom) / 2];
                app.canvas.ds.offset = [view.width, view.height].map((size, i) => size / 2 / scale - middle[i]);
                app.canvas.setDirty(true, true);
            }""",
            list(nodes),
        )
        self.page.wait_for_timeout(800)
