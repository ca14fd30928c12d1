"""Take the picture of the page in docs/pictures.md: python docs/make_screenshot.py [FOLDER].

Starts `tcformer serve` and looks at it with the Chromium on the path, through playwright. It shows
an example that the package draws; the weights are random.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
MODELS = ("tcformer_light", "tcformerv2_light")


def main() -> None:
    """Write serve.png into the folder named on the command line (docs/images by default)."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    command = [sys.executable, "-m", "tcformer", "serve", "--port", "0", "--model", *MODELS]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().split()[3]
        with sync_playwright() as playwright:
            chromium = {"executable_path": shutil.which("chromium"), "args": FLAGS}
            browser = playwright.chromium.launch(**chromium)
            page = browser.new_page(viewport={"width": 1320, "height": 950})
            page.goto(url)
            picture = look(page)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    Image.open(io.BytesIO(picture)).convert("RGB").save(folder / "serve.png", optimize=True)


def look(page: Page) -> bytes:
    """V2 beside V1 at stage 3, a token of the face pinned."""
    page.locator(".tcf-map[data-ready]").wait_for()
    page.locator("#tcf-beside input").click()
    page.get_by_role("option", name=f"{MODELS[1]} (random)").click()
    page.locator(".tcf-view").nth(1).wait_for()
    page.locator(".tcf-thumb").nth(3).click()
    frame = page.locator(".tcf-big").first
    box = frame.bounding_box()
    frame.click(position={"x": 0.29 * box["width"], "y": 0.56 * box["height"]})
    page.wait_for_timeout(300)
    page.evaluate("scrollTo(0, 0)")
    return page.screenshot()


if __name__ == "__main__":
    main()
