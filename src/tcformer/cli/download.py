"""`tcformer download`: the authors' weights, verified, as safetensors in the cache."""

from __future__ import annotations

import sys
from pathlib import Path

from tcformer.cli import EXIT_SIGINT
from tcformer.cli.parser import Parser
from tcformer.errors import UserError

_EPILOG = (
    "Files are kept in TCFORMER_CACHE if that is set, else in $XDG_CACHE_HOME/tcformer, else in "
    "~/.cache/tcformer; timm.create_model(NAME, pretrained=True) uses the same. TCFORMER_ZOO_URL "
    "does what --base-url does. Without a connection, put the published file into that folder. "
    "A file with another hash is refused here; use it by its path (--resume, --finetune, convert)."
)


def main(argv: list[str]) -> int:
    """Run the verb. Returns 0, or 130 when interrupted; mistakes raise UserError."""
    parser = Parser("download", epilog=_EPILOG)
    parser.add_argument("name", metavar="NAME", nargs="*", help="which weights; --list shows them")
    parser.add_argument("--list", action="store_true", help="show what there is, and stop")
    parser.add_argument("--cache-dir", metavar="DIR", help="keep the files in this folder")
    parser.add_argument(
        "--base-url", metavar="URL", help="fetch URL/FILE from this mirror, not from the authors"
    )
    parser.add_argument("--force", action="store_true", help="fetch anew what is there already")
    args = parser.parse_args(argv)
    if args.list:
        _show_list(args.cache_dir)
        return 0
    if not args.name:
        raise UserError("say which weights to download; `tcformer download --list` shows them")

    from tcformer.weights import released

    entries = [released.find_release(name) for name in args.name]  # before the first download
    for entry in entries:
        try:
            path = released.pretrained_path(
                entry.name, cache_dir=args.cache_dir, base_url=args.base_url, force=args.force
            )
        except KeyboardInterrupt:
            folder = _folder(args.cache_dir)
            hint = released.by_hand_hint(entry, folder)
            print(f"interrupted, nothing was kept; run this again, or {hint}", file=sys.stderr)
            return EXIT_SIGINT
        meta = released.kept_metadata(path) or {}
        verified = meta.get("verified", "no")
        if verified == "no":
            check = "hash unknown, not verified"
        else:
            check = f"SHA-256 begins with {verified} as published"
        print(f"{entry.name}: {path}")
        print(f"  from {meta.get('source', 'an unknown source')}; {check}")
    return 0


def _folder(chosen: str | None) -> Path:
    from tcformer.files import cache_folder

    return Path(chosen).expanduser() if chosen else cache_folder()


def _show_list(cache_dir: str | None) -> None:
    from tcformer.weights import released

    folder = _folder(cache_dir)
    print("Figures are the paper's; this project has not measured them.")
    for entry in released.RELEASED.values():
        kept = folder / f"{entry.name}.safetensors"
        figure = f", paper: {entry.paper}" if entry.paper else ""
        print(f"\n{entry.name}")
        print(f"  {entry.task}{figure}")
        for source in entry.sources:
            check = f"SHA-256 {source.sha256}..." if source.sha256 else "hash unknown"
            print(f"  {source.address} ({source.file_name}, {check})")
        if released.is_kept(entry, kept):
            print(f"  here: {kept}")
