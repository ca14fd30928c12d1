"""`tcformer serve`: a local page that shows the tokens of pictures, stage by stage."""

from __future__ import annotations

import os
import sys
from argparse import BooleanOptionalAction, Namespace

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError

HELP = VERBS["serve"]

LEAST_SIZE = 16
MOST_SIZE = 1024
MOST_UPLOAD = 100


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

        ema = False if args.no_ema else None
        networks = Networks(entries(_models(args), args.checkpoint, ema))
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

    if args.model or args.checkpoint:
        for name in args.model:
            if name not in VARIANTS:
                from tcformer.errors import nearest

                guess = nearest(name, VARIANTS)
                hint = f"did you mean {guess}?" if guess else f"choose from {', '.join(VARIANTS)}."
                raise UserError(f"tcformer serve: there is no model {name!r}; {hint}")
        return list(args.model)
    first = "tcformer_light"
    return [first, *(name for name in VARIANTS if name != first)]


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "serve",
        epilog="The page needs no network and sends nothing anywhere. Ctrl-C (or SIGTERM) ends it "
        "with status 0. It needs Gradio: pip install 'tcformer[serve]'.",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        nargs="+",
        default=None,
        help="trained weights that can be chosen on the page; visitors can read no other file",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        nargs="+",
        default=None,
        help="models that can be chosen with random weights (default: all, if there is no "
        "--checkpoint)",
    )
    parser.add_argument(
        "--no-ema",
        action="store_true",
        help="of checkpoints the last weights, although there are averaged ones",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 127.0.0.1 is this machine alone, 0.0.0.0 lets others in",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=_port,
        default=None,
        help="port to listen on, 0 for any free one (default: the first free one from 7860 on)",
    )
    parser.add_argument(
        "--open",
        action=BooleanOptionalAction,
        default=False,
        help="open the page in a browser of this machine",
    )
    parser.add_argument(
        "--size",
        metavar="N",
        type=_size,
        default=None,
        help="short side of what the networks see, in pixels, or `full` for pictures as they are "
        "(default: what each was trained with; smaller pictures as they are)",
    )
    parser.add_argument(
        "--max-upload",
        metavar="MB",
        type=_upload,
        default=20.0,
        help="largest file that is taken, in megabytes",
    )
    args = parser.parse_args(argv)
    args.checkpoint, args.model = args.checkpoint or [], args.model or []
    for file in args.checkpoint:
        if not file.startswith(("http://", "https://")) and not os.path.exists(file):
            raise UserError(f"--checkpoint {file}: there is no such file")
    return args


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError
    return port


def _size(text: str) -> int | str:
    if text == "full":
        return text
    size = int(text)
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise ValueError
    return size


def _upload(text: str) -> float:
    size = float(text)
    if not 0.01 <= size <= MOST_UPLOAD:
        raise ValueError
    return size


_port.__name__ = "port (a whole number from 0 to 65535)"
_size.__name__ = f"size (a whole number from {LEAST_SIZE} to {MOST_SIZE}, or full)"
_upload.__name__ = f"number of megabytes (from 0.01 to {MOST_UPLOAD})"
