"""The report's page in a real browser, without a network."""

from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page


class Opened:
    """A page opened without a network, and all that it complained about or asked for."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: str) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
        )
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self._on_request(request.url))
        self.page.goto(path.as_uri())

    def _on_console(self, message: ConsoleMessage) -> None:
        self.problems.append(f"{message.type}: {message.text}")

    def _on_request(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.problems.append(f"asked for {url}")

    def scores(self) -> list[float]:
        """Dice of the cards that are seen, in their order."""
        seen = self.page.locator("#cards > .card:visible")
        return [float(value) for value in seen.evaluate_all("all => all.map(c => c.dataset.dice)")]

    def opacity(self, where: str) -> dict[str, bool]:
        """Which layers are seen in the first picture under `where`."""
        return {
            mode: self.page.locator(f"{where} .layer.{mode}").first.is_visible()
            for mode in ("difference", "prediction", "truth")
        }


def looked_at(browser: Browser, path: Path) -> None:
    """Open a page, and use it once."""
    assert path.stat().st_size < 5e6
    for width in (360, 1280):
        opened = Opened(browser, path, width, "light")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.scores() == sorted(opened.scores()) != []
        opened.page.click("#cards .open >> nth=0")
        opened.page.keyboard.press("2")
        assert opened.opacity("#large-whole")["prediction"]
        opened.context.close()
        assert opened.problems == []
