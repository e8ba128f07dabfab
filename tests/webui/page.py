"""The web UI's page in a real browser: what a user does there."""

from collections.abc import Callable
from typing import Any

from .server import Forge

READY = "() => typeof gradioApp === 'function' && Boolean(gradioApp().querySelector('#txt2img_generate'))"
SMALL = {"steps": 2, "width": 64, "height": 64, "batch_size": 1}


class ForgePage:
    """One open page.

    Args:
        page: a playwright page, not yet loaded.
        forge: the server to open.
    """

    def __init__(self, page: Any, forge: Forge) -> None:
        self.page, self.forge = page, forge
        page.set_default_timeout(120_000)

    def open(self, theme: str = "light") -> "ForgePage":
        """Load the page, and wait until it answers."""
        self.page.goto(f"{self.forge.url}/?__theme={theme}")
        self.page.wait_for_function(READY)
        self.page.wait_for_timeout(3000)  # its scripts bind the buttons after it is drawn
        return self

    def set_number(self, name: str, value: float) -> None:
        """Set a slider or a number."""
        box = self.page.locator(f"#{name} input[type=number]").first
        box.fill(str(value))
        box.press("Tab")

    def number(self, name: str) -> float:
        """The value of a slider or a number."""
        return float(self.page.locator(f"#{name} input[type=number]").first.input_value())

    def set_text(self, name: str, value: str) -> None:
        """Fill a text box."""
        box = self.page.locator(f"#{name} textarea, #{name} input[type=text]").first
        box.fill(value)
        box.press("Tab")

    def text(self, name: str) -> str:
        """What a text box or a list holds."""
        return self.page.locator(f"#{name} textarea, #{name} input").first.input_value()

    def choose(self, name: str, value: str) -> None:
        """Choose in a list."""
        self.page.locator(f"#{name} input").first.click()
        self.page.locator(f"#{name} ul li", has_text=value).first.click()
        self.page.wait_for_timeout(300)

    def write_choice(self, name: str, value: str) -> None:
        """Write into a list that takes other values than it offers."""
        self.page.locator(f"#{name} input").first.fill(value)
        self.page.locator(f"#{name} input").first.press("Enter")

    def offered(self, name: str) -> list[str]:
        """What a list offers."""
        box = self.page.locator(f"#{name} input").first
        box.click()
        found = self.page.locator(f"#{name} ul li").all_inner_texts()
        self.page.keyboard.press("Escape")
        box.blur()  # it opens again only when it is entered again
        return [one.replace("✓", "").strip() for one in found]

    def chosen(self, name: str) -> list[str]:
        """What is chosen in a list of several."""
        return self.page.locator(f"#{name} .token").all_inner_texts()

    def pick(self, name: str, value: str) -> None:
        """Pick a radio button."""
        self.page.locator(f"#{name} label", has_text=value).first.click()

    def picked(self, name: str) -> str:
        """The radio button that is picked."""
        return self.page.locator(f"#{name} input:checked").get_attribute("value")

    def unfold(self, name: str) -> None:
        """Open an accordion that is not open yet."""
        heading = self.page.locator(f"#{name} > .label-wrap, #{name} button.label-wrap").first
        if "open" not in (heading.get_attribute("class") or "").split():
            heading.click()
            self.page.wait_for_timeout(400)

    def small(self, page: str = "txt2img", **more: float) -> None:
        """Ask for small images."""
        for name, value in (SMALL | more).items():
            self.set_number(f"{page}_{name}", value)

    def generate(self, page: str = "txt2img", timeout: float = 600) -> None:
        """Make the images, and wait for them."""
        before = self.page.locator(f"#html_log_{page}").inner_html()
        self.page.locator(f"#{page}_generate").click()
        self.page.wait_for_function(
            """([page, before]) => {
                const log = document.querySelector(`#html_log_${page}`);
                return log.innerHTML !== before && log.textContent.includes("Time taken");
            }""",
            arg=[page, before],
            timeout=timeout * 1000,
        )

    def wait_for(self, place: str, text: str, timeout: float = 600) -> str:
        """Wait until an element says something; returns all that it says."""
        self.page.wait_for_function(
            "([place, text]) => document.querySelector(place)?.textContent.includes(text)",
            arg=[place, text],
            timeout=timeout * 1000,
        )
        return self.page.locator(place).first.inner_text()

    def until(self, holds: Callable[[], bool], timeout: float = 60) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: it does not in time.
        """
        for _ in range(int(timeout / 0.3)):
            if holds():
                return
            self.page.wait_for_timeout(300)
        raise AssertionError("it did not come to hold")

    def paste(self, infotext: str) -> None:
        """Paste an infotext: into the prompt, and the button that reads it."""
        self.set_text("txt2img_prompt", infotext)
        self.page.locator("#paste").first.click()
        self.until(lambda: "Steps:" not in self.text("txt2img_prompt"))

    def tab(self, name: str) -> None:
        """Open a tab by its name."""
        self.page.locator("button[role=tab]", has_text=name).first.click()
        self.page.wait_for_timeout(500)
