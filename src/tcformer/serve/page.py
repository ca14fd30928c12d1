"""The page itself, laid out with Gradio; what is drawn on it comes from `payload`."""

from __future__ import annotations

import itertools
import json
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from typing import TYPE_CHECKING, Any

from tcformer import viz
from tcformer.errors import UserError
from tcformer.serve.networks import Networks
from tcformer.serve.payload import PAINTS, VIEWS, Look, data_uri, page_data
from tcformer.serve.pictures import Kept, Picture, decode, examples, from_browser, megabytes

if TYPE_CHECKING:
    import gradio as gr

NOTHING = "nothing"
"""The choice beside the first network that means: one alone."""

EXAMPLE = "example:"
"""What the keys of examples begin with; the others are hexadecimal."""

DEFECT = "something went wrong here, and the terminal that runs the page says what"

MOST_KEPT = 256 * 2**20
"""Bytes of visitors' pictures that are kept, as files, for when they choose another network."""

MOST_WAITING = 32
"""Calculations that may wait; one runs at a time, on all cores."""

LONGEST_WORK = 60
"""Seconds that the end of the server waits for the calculation at hand."""

MOST_TABS = 200
"""Browser tabs whose choices are remembered; the oldest is forgotten first."""

THUMBNAIL = 72

WORK = "work"
"""All calculations share one queue."""


def prepare_gradio() -> None:
    """Switch off all in Gradio that would look for the network; to be called before its import.

    Raises `UserError` where Gradio is not installed, or too old.
    """
    try:
        version = metadata.version("gradio")
    except metadata.PackageNotFoundError:
        raise UserError(
            "the page needs Gradio, which is not installed: run pip install 'tcformer[serve]'"
        ) from None
    if int(version.partition(".")[0]) < 6:
        raise UserError(
            f"the page needs Gradio 6 and finds {version}: "
            "run pip install --upgrade 'tcformer[serve]'"
        )
    # Gradio reads these when it is imported and when a page is made.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("GRADIO_SHARE", "GRADIO_ALLOWED_PATHS", "GRADIO_MCP_SERVER", "GRADIO_ROOT_PATH"):
        os.environ.pop(name, None)


class Desk:
    """Answers the page's questions: takes pictures and choices, gives what is to be drawn.

    Whatever a visitor can get wrong becomes a sentence on the page. `size` is that of
    `payload.Look`, and `most_bytes` the largest picture that is taken.
    """

    def __init__(self, networks: Networks, *, size: Any, most_bytes: int) -> None:
        self.networks = networks
        self.size = size
        self.most_bytes = most_bytes
        self.kept = Kept(MOST_KEPT)
        self._work = threading.Lock()
        self._closed = False

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the desk: one piece of work at a time, and none after `close`."""
        with self._work:
            if self._closed:
                raise UserError("the page is being closed")
            yield

    def close(self) -> None:
        """Wait for the piece of work at hand and begin no other.

        A process that ends while torch calculates in another thread may be aborted.
        """
        self._closed = True
        if self._work.acquire(timeout=LONGEST_WORK):
            self._work.release()

    def upload(self, sent: object) -> str:
        """Take the picture that the page sends and return its key; refuse what is none."""
        found = sent if isinstance(sent, dict) else {}
        picture = from_browser(found.get("name"), found.get("data"), most_bytes=self.most_bytes)
        decode(picture)
        return self.kept.keep(picture)

    def draw(self, key: str | None, first: str, beside: str, paint: str, view: str) -> str:
        """What to draw for the picture of a key (None: the first example) and the choices."""
        if paint not in PAINTS or view not in VIEWS:
            raise UserError("this choice is not among those that are offered")
        name, image = self._picture(key)
        labels = [first] if beside == NOTHING else [first, beside]
        networks = [(label, self.networks.get(label)) for label in labels]
        return page_data(name, image, networks, Look(paint, view, self.size))

    def _picture(self, key: str | None) -> tuple[str, Any]:
        drawn = examples()
        if key is None or key.startswith(EXAMPLE):
            name = next(iter(drawn)) if key is None else key.removeprefix(EXAMPLE)
            if name not in drawn:
                raise UserError("there is no such example: choose another")
            return name, drawn[name]
        picture: Picture = self.kept.get(key)
        return picture.name, decode(picture)


def build(desk: Desk) -> gr.Blocks:
    """Lay out the page; `prepare_gradio` comes first."""
    import gradio as gr

    labels = desk.networks.labels
    with gr.Blocks(title="TCFormer: see the tokens", analytics_enabled=False) as page:
        gr.HTML(_static("head.html"), js_on_load=None)
        key = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                picker = gr.HTML(
                    json.dumps({}),
                    html_template=_static("picker.html"),
                    js_on_load=_static("picker.js"),
                    apply_default_css=False,
                    most_bytes=desk.most_bytes,
                    most_text=megabytes(desk.most_bytes),
                    examples=json.dumps(_thumbnails()),
                    elem_id="tcf-picker",
                )
                first = gr.Dropdown(labels, value=labels[0], label="Model", elem_id="tcf-model")
                beside = gr.Dropdown(
                    [NOTHING, *labels], value=NOTHING, label="Beside it", elem_id="tcf-beside"
                )
                paint = gr.Radio(
                    list(PAINTS), value=PAINTS[0], label="Paint tokens with", elem_id="tcf-paint"
                )
                view = gr.Radio(
                    list(VIEWS), value=VIEWS[0], label="The network sees", elem_id="tcf-view"
                )
            with gr.Column(scale=4, min_width=300):
                shown = gr.HTML(
                    "",
                    html_template='<div class="tcf-map"></div>',
                    js_on_load=_static("map.js"),
                    apply_default_css=False,
                    elem_id="tcf-map",
                )
        choices = [first, beside, paint, view]

        # An answer is the picture's key, what to draw, and a message ("" for none).
        def answer(key: str | None, chosen: tuple[Any, ...], find: Callable[[], str] | None) -> Any:
            try:
                with desk.working():
                    key = find() if find else key
                    return key, desk.draw(key, *chosen), _message("")
            except UserError as problem:
                return gr.skip(), gr.skip(), _message(str(problem))
            except Exception:  # a defect of ours: the visitor learns that much, the terminal what
                traceback.print_exc()
                return gr.skip(), gr.skip(), _message(DEFECT)

        def take(event: Any, key: str | None, *chosen: Any) -> Any:
            return answer(key, chosen, lambda: desk.upload(event._data))

        def example(event: Any, key: str | None, *chosen: Any) -> Any:
            sent = event._data
            name = sent.get("example") if isinstance(sent, dict) else None
            return answer(f"{EXAMPLE}{name}", chosen, None)

        def redraw(key: str | None, *chosen: Any) -> Any:
            return answer(key, chosen, None)

        for function in (take, example):  # Gradio hands over the event where it finds this type
            function.__annotations__ = {"event": gr.EventData}

        settings: dict[str, Any] = {
            "inputs": [key, *choices],
            "outputs": [key, shown, picker],
            "concurrency_limit": 1,
            "concurrency_id": WORK,
            "api_visibility": "private",
            "trigger_mode": "always_last",  # who clicks while it calculates means the last click
            "show_progress": "minimal",
            "show_progress_on": shown,
        }
        picker.upload(take, **settings)
        picker.select(example, **settings)
        # Not "input", which a dropdown fires twice for one choice.
        gr.on([page.load, *(each.select for each in choices)], redraw, **settings)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
    page.state_session_capacity = MOST_TABS
    return page


def application(desk: Desk) -> Any:
    """The page as an ASGI application, not yet guarded."""
    import gradio as gr
    from fastapi import FastAPI

    # System fonts only: Gradio's own themes fetch theirs from the network.
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
    mono = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(desk),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        pwa=False,
        ssr_mode=False,
        mcp_server=False,
        allowed_paths=[],
        max_file_size=desk.most_bytes,
        theme=gr.themes.Default(font=fonts, font_mono=mono),
        css=_static("page.css"),
    )


_messages = itertools.count(1)


def _message(text: str) -> str:
    # Numbered, so that the browser notices the same sentence for the second time.
    return json.dumps({"message": f"{text}." if text else "", "number": next(_messages)})


def _thumbnails() -> list[tuple[str, str]]:
    small = []
    for name, picture in examples().items():
        share = THUMBNAIL / max(picture.shape[:2])
        height, width = (max(1, round(side * share)) for side in picture.shape[:2])
        small.append((name, data_uri(viz.resize_image(picture, (height, width)))))
    return small


def _static(name: str) -> str:
    return (resources.files("tcformer.serve") / "static" / name).read_text(encoding="utf-8")
