"""`tcformer hub`: a checkpoint in timm's hub format, as a folder or on the Hugging Face Hub."""

from __future__ import annotations

from argparse import Namespace

from tcformer.cli.parser import Parser, load_network
from tcformer.errors import UserError

_EPILOG = (
    "The model card is written from the record of the training, record.json beside the checkpoint "
    "unless --record names another. To push, log in with `hf auth login` or set HF_TOKEN."
)


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer hub --help`."""
    args = _parse(argv)

    loaded = load_network(args)
    from tcformer.predict.hub import push_to_hub, record_beside, save_pretrained

    record = args.record or record_beside(loaded.source)
    given = {"record": record, "name": args.name, "license": args.license}
    for note in loaded.notes:
        print(f"note: {note}.")
    if record is None:
        print("note: there is no record of the training, so the model card says nothing about it.")
    if args.push is None:
        folder = save_pretrained(loaded, args.folder, overwrite=args.force, **given)
        print(
            f"wrote {folder}: {loaded.name}, {loaded.num_classes} classes; it reads back the same"
        )
        print(f'timm.create_model("local-dir:{folder}", pretrained=True) loads it')
        return 0
    given = {key: value for key, value in given.items() if value is not None}
    print(f"pushed {push_to_hub(loaded, args.push, private=args.private, **given)}")
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser("hub", epilog=_EPILOG)
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="trained weights, or a folder in this format")
    add("folder", metavar="FOLDER", nargs="?", help="folder to write")
    add("--push", metavar="USER/NAME", help="upload to this repository, which is created if needed")
    add("--private", action="store_true", help="with --push: a new repository is private")
    parser.share("model", "input-size", "ema")
    add("--record", metavar="FILE", help="record of the training (default: the one beside it)")
    add("--name", help="of the model in its card (default: that of folder or repository)")
    add("--license", metavar="NAME", help="of the weights, such as mit (default: not said)")
    add("--force", action="store_true", help="replace the files in FOLDER")
    args = parser.parse_args(argv)
    if (args.folder is None) == (args.push is None):
        raise UserError("tcformer hub: name either a FOLDER to write or a repository to --push to")
    if args.private and args.push is None:
        raise UserError("--private is about a repository; give --push USER/NAME, or leave it out")
    if args.force and args.push is not None:
        raise UserError("--force is about a folder; a push adds a commit and replaces nothing")
    return args
