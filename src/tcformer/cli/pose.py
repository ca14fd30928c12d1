"""`tcformer pose`: find the keypoints of people in pictures and videos, and draw them."""

from __future__ import annotations

import contextlib
import json
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tcformer.cli.parser import Parser, print_notes, real
from tcformer.errors import UserError
from tcformer.files import atomic_write, check_writable, read_whole, staging
from tcformer.images import UnreadableImageError, decode_strictly, read_image
from tcformer.progress import progress_bar

if TYPE_CHECKING:  # they import torch: a mistake is answered before that
    from tcformer.predict.boxes import Boxes
    from tcformer.predict.pose import Person, PoseEstimator

MOST_PEOPLE_DRAWN = 12
"""People beside whose tokens there is room; the others are drawn on the picture alone."""

EXIT_SOME_UNREADABLE, EXIT_NONE_READ = 1, 2

RESULTS = "keypoints.json"

Where = Callable[[Path, int | None, NDArray[np.uint8]], "Boxes | None"]
"""The people of a file, or of a frame of it; None is one person who fills the picture."""


class _UnreadableError(UserError):
    """A file that is no picture or video, or a damaged one: the others are still looked at."""


class _NoneReadError(Exception):
    """No file could be read: what an earlier call has written stays."""


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer pose --help`."""
    args = _parse(argv)

    from tcformer.predict.pose import load_pose
    from tcformer.predict.video import require_av

    files, folder = [Path(name) for name in args.files], Path(args.out)
    for file in files:
        if not file.is_file():
            what = "is a folder: name the files in it" if file.is_dir() else "does not exist"
            raise UserError(f"{file} {what}.")
    videos = [_is_video(file) for file in files]
    endings = [".mp4" if video else ".png" for video in videos]
    outputs = [folder / f"{file.stem}.pose{end}" for file, end in zip(files, endings, strict=True)]
    twice = sorted({str(out) for out in outputs if outputs.count(out) > 1})
    if twice:
        raise UserError(f"two of the files would both be written to {twice[0]}; rename one.")
    for output in (*outputs, folder / RESULTS):
        check_writable(output, made_from=[*files, args.boxes, args.checkpoint])
    if any(videos):
        require_av()

    where = _where(args)
    estimator = load_pose(
        args.checkpoint,
        crop_size=tuple(args.crop_size) if args.crop_size else None,
        codec=args.codec,
        ema=args.ema,
        device=args.device,
    )
    print_notes(estimator.notes)
    run = _Run(args, estimator, where)
    written = []
    try:
        with staging(folder, last=RESULTS) as scratch:
            for file, output, video in zip(files, outputs, videos, strict=True):
                draw = run.video if video else run.picture
                try:
                    print(draw(file, scratch / output.name))
                    written.append(output.name)
                except _UnreadableError as error:
                    print(f"error: {error}", file=sys.stderr)
            if not written:
                raise _NoneReadError
            text = json.dumps(run.results(), allow_nan=False).encode()
            atomic_write(scratch / RESULTS, lambda opened: opened.write(text))
    except _NoneReadError:
        return EXIT_NONE_READ
    print(f"wrote {', '.join([*written, RESULTS])} in {folder}")
    return EXIT_SOME_UNREADABLE if len(written) < len(files) else 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "pose",
        epilog="Without --boxes and --detect each picture is taken to show one person, who fills "
        "it. keypoints.json is in COCO's format, with COCO-WholeBody's fields for 133 keypoints. "
        "A file that cannot be read is named on stderr and left out; the status is then 1, or 2 if "
        "not one could be read.",
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="pictures or videos")
    parser.share("checkpoint", "ema", "device", device={"default": "cpu"}, checkpoint={
        "required": True, "help": "weights of a pose network"})  # fmt: skip
    add("--out", metavar="FOLDER", default="pose", help="folder to write to")
    people = parser.add_mutually_exclusive_group()
    people.add_argument("--boxes", metavar="FILE.json", help="where people are: a list with "
        "file_name (or COCO's image_id), bbox, score; or annotations in COCO's "
        "format")  # fmt: skip
    people.add_argument("--detect", action="store_true", help="find people with torchvision's "
        "detector")  # fmt: skip
    add("--detector-weights", metavar="FILE", help="the detector's weights, where it has none yet")
    add("--detector-threshold", type=real(0, 1), help="least score of a detected person (default: "
        "0.5)")  # fmt: skip
    add("--threshold", type=real(0, 1), default=0.2, help="draw keypoints with a score above this")
    add("--tokens", action=BooleanOptionalAction, default=True, help="draw the tokens of each "
        "person beside the picture")  # fmt: skip
    add("--flip-test", action=BooleanOptionalAction, default=True, help="average with the mirrored "
        "person: slower, a little better")  # fmt: skip
    add("--crop-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="input of the network "
        "in pixels (default: what the checkpoint says)")  # fmt: skip
    add("--codec", choices=("classic", "dark", "udp"), help="how heat maps are read (default: what "
        "the checkpoint says)")  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("weights", "threshold"):
        if getattr(args, f"detector_{name}") is not None and not args.detect:
            raise UserError(f"--detector-{name} does nothing without --detect; add it.")
    if args.detector_threshold is None:
        args.detector_threshold = 0.5
    return args


def _where(args: Namespace) -> Where:
    """What tells the people's boxes: a file, a detector, or nobody."""
    from tcformer.predict.boxes import Detector, read_boxes

    if args.boxes:
        known = read_boxes(args.boxes)
        if str(known.left_out):
            print_notes([f"{args.boxes}: {known.left_out}"])
        missing = [name for name in args.files if not known.knows(Path(name))]
        if missing:
            raise UserError(
                f"{args.boxes} says nothing of {missing[0]} ({len(missing)} of {len(args.files)} "
                "files are not in it)."
            )
        return lambda file, frame, picture: known.of(file, frame)
    if args.detect:
        detector = Detector(args.detector_weights, args.detector_threshold)
        return lambda file, frame, picture: detector(picture)
    return lambda file, frame, picture: None


def _is_video(file: Path) -> bool:
    """By its ending; a GIF is one if it moves."""
    from tcformer.predict.video import VIDEOS

    if file.suffix.lower() != ".gif":
        return file.suffix.lower() in VIDEOS
    try:
        return decode_strictly(read_whole(file), lambda image: getattr(image, "n_frames", 1) > 1)
    except (OSError, UnreadableImageError):  # the reader of pictures says what is wrong
        return False


class _Run:
    """The people of file after file."""

    def __init__(self, args: Namespace, estimator: PoseEstimator, where: Where) -> None:
        self.args, self.estimator, self.where = args, estimator, where
        self.kind = estimator.layout
        self.images: list[dict[str, Any]] = []
        self.people: list[dict[str, Any]] = []

    def picture(self, file: Path, output: Path) -> str:
        """Draw the people of a picture; returns what to print."""
        from tcformer.viz import write_png
        from tcformer.viz.skeleton import people_sheet

        try:
            picture = read_image(file)
        except UserError as error:
            raise _UnreadableError(str(error)) from None
        people = self._find(file, None, picture)
        drawn = self._skeletons(picture, people)
        if self.args.tokens and people:
            codec, tokens = self.estimator.codec, self.estimator.tokens
            chosen = people[:MOST_PEOPLE_DRAWN]
            crops = [(p.crop, p.points, p.scores, tokens(picture, p)) for p in chosen]
            threshold = self.args.threshold
            drawn = people_sheet(picture, drawn, crops, self.kind, codec, threshold=threshold)
        write_png(output, drawn)
        number = len(people)
        words = f"{number} {'person' if number == 1 else 'people'}" if number else "nobody found"
        return f"{file}: {words}"

    def video(self, file: Path, output: Path) -> str:
        """Draw the people of every frame of a video; returns what to print."""
        from tcformer.predict.video import DamagedVideoError, Video, VideoWriter

        before = len(self.images)
        try:
            video = Video(file)
        except UserError as error:
            raise _UnreadableError(str(error)) from None
        with contextlib.closing(video), progress_bar(video.frames, label=file.name) as update:
            writer = VideoWriter(output, video.rate)
            try:
                for number, picture in enumerate(video):
                    writer.write(self._skeletons(picture, self._find(file, number, picture)))
                    update(advance=1)
                writer.finish()
            except BaseException as error:
                writer.abandon()
                del self.images[before:]
                self.people = [person for person in self.people if person["image_id"] <= before]
                if isinstance(error, DamagedVideoError):
                    raise _UnreadableError(str(error)) from None
                raise
        return f"{file}: {len(self.images) - before} frames"

    def _find(self, file: Path, frame: int | None, picture: NDArray[np.uint8]) -> list[Person]:
        """Note the people of a picture; returns those that non-maximum suppression by OKS keeps."""
        from tcformer.tasks.pose.results import oks_nms, person_score

        boxes, box_scores = self.where(file, frame, picture) or (None, None)
        flip = self.args.flip_test
        people = self.estimator(picture, boxes, box_scores=box_scores, flip_test=flip)
        sure = [person_score(person.box_score, person.scores) for person in people]
        kept = list(range(len(people)))
        if self.kind.sigmas is not None and people:
            points = np.stack([person.points for person in people])
            areas = np.array([person.crop.area for person in people])
            kept = oks_nms(points, np.array(sure), areas, self.kind.sigmas)
        name, image_id = file.name, len(self.images) + 1
        name += "" if frame is None else f"#{frame}"
        height, width = picture.shape[:2]
        self.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for i in kept:
            flat = np.concatenate([people[i].points, people[i].scores[:, None]], axis=1)
            box = [float(v) for v in people[i].box]
            entry: dict[str, Any] = {"id": len(self.people) + 1, "image_id": image_id}
            entry |= {"category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for part, field in self.kind.fields.items():
                entry[field] = [round(float(v), 4) for v in flat[self.kind.slice(part)].ravel()]
            # COCO's tools take a third number above zero for a keypoint that is there.
            entry["num_keypoints"] = sum(v > 0 for v in entry["keypoints"][2::3])
            self.people.append({**entry, "score": sure[i]})
        return [people[i] for i in kept]

    def results(self) -> dict[str, Any]:
        """In COCO's format: what its tools draw and measure are the first part's keypoints."""
        kind = self.kind
        category: dict[str, Any] = {"id": 1, "name": "face" if kind.norm else "person"}
        for part, field in kind.fields.items():
            category[field] = list(kind.names[kind.slice(part)])
        first = next(iter(kind.parts))
        category["skeleton"] = [[a + 1, b + 1] for a, b in kind.links[first]]  # counted from 1
        return {"images": self.images, "annotations": self.people, "categories": [category]}

    def _skeletons(self, picture: NDArray[np.uint8], people: list[Person]) -> NDArray[np.uint8]:
        from tcformer.viz.skeleton import draw_skeleton

        if not people:
            return picture
        return draw_skeleton(
            picture,
            np.stack([person.points for person in people]),
            np.stack([person.scores for person in people]),
            self.kind.links,
            parts=self.kind.parts,
            threshold=self.args.threshold,
        )
