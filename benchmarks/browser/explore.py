"""The explorer's page in a headless Chromium: clicks, keys, slider, saving; no error on the console.

    python benchmarks/browser/explore.py PAGE --out FOLDER [--chromium /usr/bin/chromium]

Runs in an environment that has playwright, whose own browser is not needed. Prints what was measured as JSON, and
leaves pictures of the page, wide, narrow and dark.
"""

import argparse
import json
import statistics
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WINDOWS = (("wide", (1280, 900), "light"), ("dark", (1280, 900), "dark"), ("phone", (390, 844), "light"))
TIMED = """(count) => {
  const box = view.getBoundingClientRect(), took = [];
  for (let one = 0; one < count; one++) {
    const clientX = box.left + box.width * ((one * 37 % 100) + 0.5) / 100;
    const clientY = box.top + box.height * ((one * 61 % 100) + 0.5) / 100;
    const began = performance.now();
    view.dispatchEvent(new MouseEvent("click", { clientX, clientY, bubbles: true }));
    took.push(performance.now() - began);
  }
  return took;
}"""


def main() -> None:
    """Opens the page, uses it, and says how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        found = {"bytes": options.page.stat().st_size}
        for name, (width, height), scheme in WINDOWS:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page, errors = context.new_page(), []
            listen(page, errors)
            page.goto(options.page.resolve().as_uri())
            until(page, "layers !== null")
            if name == "wide":
                used(page, options.out, found)
            else:
                page.locator("#view").click(position={"x": 150, "y": 90})
            page.wait_for_timeout(300)
            page.screenshot(path=str(options.out / f"{name}.png"), full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
            assert not wide, f"{name}: the page is wider than its window"
            assert not errors, errors
            context.close()
        browser.close()
    print(json.dumps(found))


def listen(page: Page, errors: list[str]) -> None:
    """Keeps what goes wrong on a page."""
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))


def until(page: Page, condition: str) -> None:
    """Waits until something holds; the page's own policy forbids that it is asked for from within."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{condition} does not come true")


def used(page: Page, out: Path, found: dict) -> None:
    """Clicks a pixel, moves by keys, changes map and slider, turns the picture, adds clicks and saves them."""
    names = page.evaluate("RUN.names")
    page.locator("#view").click(position={"x": 300, "y": 200})
    first = page.locator("#where").inner_text()
    assert first.startswith(names[0]), first
    assert page.locator("#said tr").count() == 3 and page.locator("#patches figure").count() >= 1
    page.keyboard.press("ArrowRight")
    assert page.locator("#where").inner_text() != first
    before = page.evaluate("view.toDataURL()")
    page.evaluate("least.value = 90; least.dispatchEvent(new Event('input'))")
    assert page.evaluate("view.toDataURL()") != before, "the slider hides what is not sure"
    assert page.locator("#leastsaid").inner_text() == "90 %"
    page.evaluate("least.value = 0; least.dispatchEvent(new Event('input'))")
    assert page.evaluate("view.toDataURL()") == before
    for value in page.evaluate("maps.map((one) => one[0])"):
        page.select_option("#map", value)
    page.select_option("#map", "mask")
    page.select_option("#label", "1")
    page.locator("#add").click()
    page.locator("#view").focus()
    page.keyboard.press("n")
    until(page, "at === 1")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator("#count").inner_text() == "2 clicks"
    with page.expect_download() as download:
        page.locator("#save").click()
    place = out / "points.csv"
    download.value.save_as(place)
    lines = place.read_text().splitlines()
    assert lines[0] == "image,x,y,class" and len(lines) == 3 and lines[2].startswith(names[1]), lines
    took = page.evaluate(TIMED, 100)
    found |= {"click_ms_median": round(statistics.median(took), 2), "click_ms_most": round(max(took), 2)}
    page.locator("#view").focus()
    page.keyboard.press("p")
    until(page, "at === 0")


if __name__ == "__main__":
    main()
