"""The page in a real Chromium: what visitors do, what they see, and that nobody else is asked."""

import io
import re
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from serving import NASTY

from tcformer import viz
from tcformer.drawn import house
from tcformer.predict import load

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

V1, V2 = "tcformer_nano (random)", "tcformerv2_nano (random)"
OWN = "own.safetensors"


class Tab:
    """A browser tab that notes every request and every complaint."""

    def __init__(self, context, url):
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("response", self._response)
        self.page.goto(url)
        self.wait()

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _response(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url}")

    def serial(self):
        return int(self.page.locator(".tcf-map").get_attribute("data-ready") or 0)

    def wait(self, after=0):
        """Until what is shown is newer than `after`."""
        self.page.wait_for_function(
            "after => Number(document.querySelector('.tcf-map')?.dataset.ready ?? 0) > after",
            arg=after,
            timeout=30_000,
        )

    def does(self, action):
        """Wait for the answer to what `action` does."""
        before = self.serial()
        action()
        self.wait(before)

    def choose(self, which, label):
        self.page.locator(f"#tcf-{which} input").click()
        self.does(self.page.get_by_role("option", name=label, exact=True).click)

    def send(self, name, data, kind="image/png"):
        self.page.locator(".tcf-file").set_input_files(
            {"name": name, "mimeType": kind, "buffer": data}
        )

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def point(self, x, y, click=False, view=0):
        """The mouse to a place of the large picture, from 0 to 1."""
        frame = self.page.locator(".tcf-big").nth(view)
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        place = (box["x"] + x * box["width"], box["y"] + y * box["height"])
        (self.page.mouse.click if click else self.page.mouse.move)(*place)

    def lit(self):
        """For each small picture of the first view, how many of its overlay's pixels are dark."""
        return self.page.evaluate(
            """() => [...document.querySelector('.tcf-view').querySelectorAll('.tcf-thumb canvas')]
            .map(canvas => {
                const copy = new OffscreenCanvas(canvas.width, canvas.height);
                const context = copy.getContext('2d', {willReadFrequently: true});
                context.drawImage(canvas, 0, 0);
                return context.getImageData(0, 0, copy.width, copy.height).data
                .filter((value, at) => at % 4 === 3 && value > 100 && value < 200).length;
            })"""
        )


@pytest.fixture
def tab(browser, served):
    errors = served.errors.read_text()
    opened = Tab(browser, served.url)
    yield opened
    hosts = {urlsplit(url).hostname for url in opened.requests if url.startswith("http")}
    assert hosts == {"127.0.0.1"}
    assert not [url for url in opened.requests if not url.startswith(("http", "data:", "blob:"))]
    assert opened.complaints == []
    assert served.errors.read_text() == errors
    opened.page.close()


def png(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="PNG")
    return file.getvalue()


def test_it_starts_with_an_example_and_fetches_nothing_from_elsewhere(tab, served):
    assert tab.page.title() == "TCFormer: see the tokens"
    assert tab.text(".tcf-title") == "house: 224 x 224 pixels"
    assert tab.text(".tcf-now") == "stage 4: 49 tokens"
    links = tab.page.evaluate(
        """() => [...document.querySelectorAll('[src], link[href], [srcset]')]
        .map(each => each.src || each.href || each.srcset)"""
    )
    assert links
    for link in links:
        assert link.startswith((served.url, "data:", "blob:")), link
    assert sum(len(link) for link in links if link.startswith("data:")) < 1_500_000
    styles = tab.page.evaluate("() => fetch('/theme.css').then(answer => answer.text())")
    assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", styles)


def test_pictures_are_uploaded_dropped_and_pasted_one_after_another(tab):
    seen = [tab.page.locator(".tcf-big img").get_attribute("src")]
    for seed, name in enumerate(("mine & <yours>.png", "next.png")):
        tab.does(lambda seed=seed, name=name: tab.send(name, png(40, 72, seed)))
        assert tab.text(".tcf-title") == f"{name}: 72 x 40 pixels"
        seen.append(tab.page.locator(".tcf-big img").get_attribute("src"))
    assert len(set(seen)) == 3
    tab.does(tab.page.get_by_role("button", name="shapes").click)
    assert tab.text(".tcf-title") == "shapes: 224 x 160 pixels"
    give = """([name, kind, bytes, event, where]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, {type: kind}));
        const options = {bubbles: true, cancelable: true};
        options[event === 'paste' ? 'clipboardData' : 'dataTransfer'] = data;
        const Kind = event === 'paste' ? ClipboardEvent : DragEvent;
        document.querySelector(where).dispatchEvent(new Kind(event, options));
    }"""
    for event, where in (("drop", ".tcf-drop"), ("paste", "body")):
        file = [f"{event}.png", "image/png", list(png(33, 33)), event, where]
        tab.does(lambda file=file: tab.page.evaluate(give, file))
        assert tab.text(".tcf-title") == f"{event}.png: 33 x 33 pixels"


def test_the_small_pictures_and_the_slider_go_through_the_stages(tab):
    slider = tab.page.get_by_role("slider")
    assert slider.input_value() == "4"
    slider.focus()
    pictures = set()
    for stage, words in ((3, "196 tokens"), (2, "784 tokens"), (1, "3,136 tokens")):
        slider.press("ArrowLeft")
        assert tab.text(".tcf-now") == f"stage {stage}: {words}"
        pictures.add(tab.page.locator(".tcf-big img").get_attribute("src"))
    slider.press("ArrowLeft")
    assert tab.text(".tcf-now").startswith("the picture as the network sees it, 224 x 224")
    tab.page.locator(".tcf-thumb").nth(2).click()
    assert slider.input_value() == "2"
    assert tab.page.locator(".tcf-thumb[aria-pressed=true]").count() == 1
    assert len(pictures) == 3


def test_mouse_and_keyboard_light_a_token_up_in_all_stages_without_asking(tab):
    asked = len(tab.requests)
    assert tab.lit() == [0] * 5
    tab.point(0.3, 0.6)
    dark = tab.lit()
    assert all(count > 0 for count in dark)
    # The picture and stages 1 to 4: the same region everywhere, for stage 4 was pointed at.
    assert max(dark) - min(dark) < 0.02 * max(dark)
    tab.page.mouse.move(5, 5)
    assert tab.lit() == [0] * 5
    tab.page.locator(".tcf-big").focus()
    tab.page.keyboard.press("ArrowRight")
    assert tab.text(".tcf-token").startswith("Token ")
    tab.page.keyboard.press("Enter")
    assert tab.text(".tcf-token").endswith(", pinned")
    assert len(tab.requests) == asked


@pytest.mark.parametrize(("label", "name"), [(V1, "tcformer_nano"), (V2, "tcformerv2_nano")])
def test_what_is_said_about_a_token_is_true(tab, label, name):
    tab.choose("model", label)
    maps = viz.layout_maps(load(name).tokens(house()))
    tab.page.locator(".tcf-thumb").nth(3).click()
    x, y = 0.305, 0.605
    tab.point(x, y, click=True)
    cells = maps[2].reshape(56, 56)
    token = int(cells[int(y * 56), int(x * 56)])
    color = "#" + bytes(viz.mean_colors(house(), maps[2])[token]).hex()
    count = int((cells == token).sum())
    said = tab.text(".tcf-token")
    assert said.startswith(f"Token {token} of stage 3 {count} cell")
    assert f"mean colour {color}, pinned" in said
    relatives = viz.relatives(maps, 3, token)
    second, first, last = len(relatives[1]), len(relatives[0]), int(relatives[3][0])
    came = tab.text(".tcf-from").replace("tokens", "token")
    assert f"Came from: {second} token of stage 2, {first} token of stage 1." in came
    assert tab.page.locator(".tcf-from .tcf-chip").count() == min(second, 24)
    named = {int(text) for text in tab.page.locator(".tcf-from .tcf-chip").all_inner_texts()}
    assert named <= set(relatives[1].tolist())
    later = int((maps[3] == last).sum())
    assert f"Went into: token {last} of stage 4 ({later} cell" in tab.text(".tcf-to")
    # A pinned token stays when the mouse goes elsewhere, and its relatives are buttons.
    tab.point(0.9, 0.1)
    assert tab.text(".tcf-token") == said
    tab.page.locator(".tcf-from .tcf-chip").first.click()
    assert re.match(r"Token \d+ of stage 2 ", tab.text(".tcf-token"))
    assert tab.text(".tcf-now") == "stage 2: 784 tokens"
    tab.page.locator(".tcf-to .tcf-chip").click()
    assert tab.text(".tcf-token") == said
    tab.page.keyboard.press("Escape")
    tab.page.locator(".tcf-big").focus()
    tab.page.keyboard.press("Escape")
    tab.page.mouse.move(5, 5)
    assert "Point at the picture" in tab.text(".tcf-facts")


def test_two_networks_stand_side_by_side(tab):
    tab.choose("model", V1)
    tab.choose("beside", V2)
    assert tab.page.locator(".tcf-view h3").all_inner_texts() == [V1, V2]
    assert tab.page.locator(".tcf-top").count() == 2
    big = tab.page.locator(".tcf-big img")
    assert big.nth(0).get_attribute("src") != big.nth(1).get_attribute("src")
    boxes = [tab.page.locator(".tcf-view").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    tab.point(0.3, 0.6, click=True)
    assert all(t.startswith("Token ") for t in tab.page.locator(".tcf-token").all_inner_texts())
    tab.choose("beside", "nothing")
    assert tab.page.locator(".tcf-view").count() == 1


def test_a_checkpoint_brings_its_classes_as_text_and_random_weights_a_warning(tab):
    tab.choose("model", OWN)
    assert tab.page.locator(".tcf-warning").count() == 0
    assert set(tab.page.locator(".tcf-name").all_inner_texts()) == set(NASTY)
    tab.choose("beside", V1)  # with other classes
    assert "The weights are random" in tab.text(".tcf-warning")
    top = tab.page.locator(".tcf-top").nth(1)
    shares = [float(text.split()[0]) for text in top.locator(".tcf-share").all_inner_texts()]
    assert len(shares) == 5
    assert shares == sorted(shares, reverse=True)


def test_what_to_paint_and_what_to_see(tab):
    seen = {tab.page.locator(".tcf-big img").get_attribute("src")}
    for label in ("colours by family", "outlines"):
        tab.does(tab.page.get_by_label(label).click)
        seen.add(tab.page.locator(".tcf-big img").get_attribute("src"))
    assert len(seen) == 3
    tab.does(lambda: tab.send("wide.png", png(60, 300)))
    tab.page.locator(".tcf-thumb").first.click()
    assert "300 x 60 pixels" in tab.text(".tcf-now")
    tab.does(tab.page.get_by_label("centre crop, as in evaluation").click)
    assert "224 x 224 pixels" in tab.text(".tcf-now")


def test_a_bad_file_is_answered_with_a_sentence(tab):
    flat = io.BytesIO()
    Image.new("RGB", (30000, 300)).save(flat, format="PNG")
    title = tab.text(".tcf-title")
    message = tab.page.get_by_role("alert")
    for name, data, sentence in (
        ("big.png", bytes(2 * 2**20), "big.png has 2.0 MB, and at most 1 MB are taken"),
        ("none.png", b"", "none.png is empty: choose another picture."),
        ("broken.png", png(64, 64)[:5000], "broken.png cannot be shown"),
        ("text.png", b"not a picture", "text.png cannot be shown"),
        ("text.png", b"not a picture", "text.png cannot be shown"),  # the second time as well
        ("small.png", png(8, 8), "small.png has 8 x 8 pixels; at least 16 on each side"),
        ("narrow.png", flat.getvalue(), "the picture would be seen as"),
    ):
        tab.send(name, data)
        message.get_by_text(sentence).wait_for()
        assert tab.text(".tcf-title") == title
    assert "Traceback" not in tab.page.content()
    tab.does(tab.page.get_by_role("button", name="person").click)
    assert not message.is_visible()


def test_two_tabs_do_not_disturb_each_other(tab, browser, served):
    other = Tab(browser, served.url)
    before = tab.serial(), other.serial()
    tab.send("one.png", png(48, 48, seed=5))
    other.send("two.png", png(64, 48, seed=6))
    tab.wait(before[0])
    other.wait(before[1])
    assert tab.text(".tcf-title") == "one.png: 48 x 48 pixels"
    assert other.text(".tcf-title") == "two.png: 48 x 64 pixels"
    tab.choose("model", V2)
    other.choose("model", V1)
    assert tab.text(".tcf-title") == "one.png: 48 x 48 pixels"
    assert other.text(".tcf-title") == "two.png: 48 x 64 pixels"
    assert (tab.text("h3"), other.text("h3")) == (V2, V1)
    assert other.complaints == []
    other.page.close()


def test_it_fits_a_phone(tab):
    tab.page.set_viewport_size({"width": 390, "height": 844})
    tab.choose("beside", V2)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    frame = tab.page.locator(".tcf-big").first
    assert frame.bounding_box()["width"] > 250
    frame.scroll_into_view_if_needed()
    frame.dispatch_event("click", {"clientX": 150, "clientY": 300})
    assert tab.text(".tcf-token").endswith(", pinned")
