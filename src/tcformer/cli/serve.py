"""`tcformer serve`: a local page that shows the tokens of pictures, stage by stage."""

from __future__ import annotations

import os
import sys
from argparse import BooleanOptionalAction, Namespace

from tcformer.cli.parser import Parser, real, whole
from tcformer.errors import UserError, nearest
from tcformer.images import LEAST_SIDE


def main(argv: list[str]) -> int:
    """Run the page until Ctrl-C; see `tcformer serve --help`."""
    args = _parse(argv)

    from tcformer.serve.page import Desk, application, prepare_gradio
    from tcformer.serve.server import address, is_loopback, known_hosts, listen, open_browser, run

    # First what fails quickly: importing Gradio takes seconds.
    prepare_gradio()
    with listen(args.host, args.port) as listener:
        from tcformer.serve.guard import LITTLE, Guard
        from tcformer.serve.networks import Networks, entries
        from tcformer.serve.pictures import megabytes

        networks = Networks(entries(_models(args), args.checkpoint, args.ema))
        networks.check()
        networks.get(networks.labels[0])
        most = round(args.max_upload * 2**20)
        desk = Desk(networks, size=args.size, most_bytes=most)
        app = Guard(
            application(desk),
            hosts=known_hosts(args.host),
            most_bytes=-(-most // 3) * 4 + LITTLE,
            too_large=f"at most {megabytes(most)} are taken: make the picture smaller",
        )
        url = address(args.host, listener.getsockname()[1])

        def ready() -> None:
            if not is_loopback(args.host):
                print(
                    f"note: with --host {args.host} everybody who can reach this machine can use "
                    "the page; it asks for no password.",
                    file=sys.stderr,
                )
            print(f"TCFormer is at {url} (end it with Ctrl-C)", flush=True)
            if args.open:
                open_browser(url)

        try:
            run(app, listener, ready=ready)
        finally:
            desk.close()
    print("stopped", flush=True)
    return 0


def _models(args: Namespace) -> list[str]:
    from tcformer.models.sizes import VARIANTS
    from tcformer.predict.loaded import DEFAULT_MODEL

    for name in args.model:
        if name not in VARIANTS:
            guess = nearest(name, VARIANTS)
            hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(VARIANTS)}."
            raise UserError(f"tcformer serve: there is no model {name!r}; {hint}")
    if args.model or args.checkpoint:
        return list(args.model)
    return [DEFAULT_MODEL, *(name for name in VARIANTS if name != DEFAULT_MODEL)]


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "serve",
        epilog="The page needs no network and sends nothing anywhere. Ctrl-C (or SIGTERM) ends it "
        "with status 0. It needs Gradio: pip install 'tcformer[serve]'.",
    )
    parser.share("checkpoint", "model", "ema", checkpoint={"nargs": "+", "default": [], "help":
        "trained weights that can be chosen on the page; visitors can read no other file"}, model={
        "nargs": "+", "default": [], "help": "models that can be chosen with random weights "
        "(default: all, if there is no --checkpoint)"})  # fmt: skip
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1 is this machine "
        "alone, 0.0.0.0 lets others in")  # fmt: skip
    add("--port", metavar="N", type=whole(0, 65535), help="port to listen on, 0 for any free one "
        "(default: the first free one from 7860 on)")  # fmt: skip
    add("--open", action=BooleanOptionalAction, default=False, help="open the page in a browser "
        "of this machine")  # fmt: skip
    add("--size", metavar="N", type=whole(LEAST_SIDE, 1024, word="full"), help="short side of what "
        "the networks see, in pixels, or `full` for pictures as they are (default: what each was "
        "trained with; smaller pictures as they are)")  # fmt: skip
    add("--max-upload", metavar="MB", type=real(0.01, 100), default=20.0, help="largest file that "
        "is taken, in megabytes")  # fmt: skip
    args = parser.parse_args(argv)
    for file in args.checkpoint:
        if not file.startswith(("http://", "https://")) and not os.path.exists(file):
            raise UserError(f"--checkpoint {file}: there is no such file")
    return args
