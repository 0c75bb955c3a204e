"""The report's page in a real browser, without a network."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page

# Every visible line of text with the box it takes, in pixels of the page; of those that boxes cut
# off, only the boxes that give no hint of it (a table that says "scroll" does).
_TEXTS = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim()) continue;
    if (parent.closest("script, style, template, dialog, option, .skip")) continue;
    if (!parent.checkVisibility({ visibilityProperty: true })) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const clips = [];
    for (let above = parent; above !== document.body; above = above.parentElement) {
      const { overflowX, overflowY } = getComputedStyle(above);
      const hints = above.matches(".scroll.more");
      if ((overflowX !== "visible" || overflowY !== "visible") && !hints) clips.push(above);
    }
    const drawn = parent.closest("svg");
    const boxes = drawn ? [parent.getBoundingClientRect()] : [...range.getClientRects()];
    for (const box of boxes) {
      if (box.width < 1) continue;
      const inside = clips.every((one) => {
        const frame = one.getBoundingClientRect();
        return box.left >= frame.left - 1 && box.right <= frame.right + 1
            && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
      });
      found.push({ text: node.data.trim().slice(0, 40), inside,
                   scrolls: !!parent.closest(".scroll.more"),
                   left: box.left, right: box.right,
                   top: box.top + scrollY, bottom: box.bottom + scrollY });
    }
  }
  return found;
}"""


class Opened:
    """A page opened without a network, and all that it complained about or asked for."""

    def __init__(self, browser: Browser, path: Path, width: int, scheme: str) -> None:
        self.width = width
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

    def texts(self) -> list[dict[str, Any]]:
        """Lines of text with their boxes, see `_TEXTS`."""
        found: list[dict[str, Any]] = self.page.evaluate(_TEXTS)
        return found

    def printed_over(self) -> list[tuple[str, str]]:
        """Pairs of texts whose boxes overlap by more than two pixels both ways."""
        pairs = []
        some = sorted(self.texts(), key=lambda one: one["top"])
        for index, one in enumerate(some):
            for other in some[index + 1 :]:
                if other["top"] > one["bottom"] - 2:
                    break
                across = min(one["right"], other["right"]) - max(one["left"], other["left"])
                down = min(one["bottom"], other["bottom"]) - other["top"]
                if across > 2 and down > 2:
                    pairs.append((one["text"], other["text"]))
        return pairs

    def cut_off(self) -> list[str]:
        """Texts that a box or the screen's edge cuts, where nothing says that there is more."""
        return [
            one["text"]
            for one in self.texts()
            if not one["inside"]
            or (not one["scrolls"] and (one["left"] < 0 or one["right"] > self.width + 1))
        ]


def looked_at(browser: Browser, path: Path) -> None:
    """Open a page, and use it once."""
    assert path.stat().st_size < 5e6
    for width in (360, 1280):
        opened = Opened(browser, path, width, "light")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.scores() == sorted(opened.scores()) != []
        assert not opened.printed_over() and not opened.cut_off()
        opened.page.click("#cards .open >> nth=0")
        opened.page.keyboard.press("2")
        assert opened.opacity("#large-whole")["prediction"]
        opened.context.close()
        assert opened.problems == []
