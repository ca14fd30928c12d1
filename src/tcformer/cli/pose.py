"""`tcformer pose`: find the keypoints of people in pictures and videos, and draw them."""

from __future__ import annotations

import json
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tcformer.cli.pose_inputs import Boxes
    from tcformer.inference.pose import Person, PoseEstimator

HELP = VERBS["pose"]

MOST_PEOPLE_DRAWN = 12
"""People beside whose tokens there is room; the others are drawn on the picture alone."""

Where = Callable[[str, "NDArray[np.uint8]"], "Boxes | None"]


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer pose --help`."""
    args = _parse(argv)
    files = [Path(name) for name in args.files]
    folder = Path(args.out)
    for file in files:
        if not file.is_file():
            what = "is a folder: name the files in it" if file.is_dir() else "does not exist"
            raise UserError(f"{file} {what}.")
    outputs = [_output(folder, file) for file in files]
    twice = sorted({str(out) for out in outputs if outputs.count(out) > 1})
    if twice:
        raise UserError(f"two of the files would both be written to {twice[0]}; rename one.")

    from tcformer.files import atomic_write, make_folder
    from tcformer.inference.pose import load_pose

    where = _where(args)
    estimator = load_pose(
        args.checkpoint,
        crop_size=tuple(args.crop_size) if args.crop_size else None,
        codec=args.codec,
        device=args.device,
    )
    for note in estimator.notes:
        print(f"note: {note}.", file=sys.stderr)
    make_folder(folder)
    results = _Results(estimator)
    for file, output in zip(files, outputs, strict=True):
        run = _video if _is_video(file) else _picture
        print(run(file, output, estimator, where, results, args))
    text = json.dumps(results.content()).encode()
    atomic_write(folder / "keypoints.json", lambda opened: opened.write(text))
    print(f"wrote {folder / 'keypoints.json'}")
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "pose",
        epilog="Without --boxes and --detect each picture is taken to show one person, who fills "
        "it. keypoints.json is in COCO's format, with COCO-WholeBody's fields for 133 keypoints.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="pictures or videos")
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="weights of a pose network"
    )
    parser.add_argument("--out", metavar="FOLDER", default="pose", help="folder to write to")
    people = parser.add_mutually_exclusive_group()
    people.add_argument(
        "--boxes", metavar="FILE.json", help="where people are: file_name, bbox, score; or COCO's"
    )
    people.add_argument(
        "--detect", action="store_true", help="find people with torchvision's detector"
    )
    parser.add_argument(
        "--detector-weights", metavar="FILE", help="the detector's weights, where it has none yet"
    )
    parser.add_argument(
        "--detector-threshold", type=float, default=0.5, help="least score of a detected person"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.2, help="draw keypoints with a score above this"
    )
    parser.add_argument(
        "--tokens",
        action=BooleanOptionalAction,
        default=True,
        help="draw the tokens of each person beside the picture",
    )
    parser.add_argument(
        "--flip-test",
        action=BooleanOptionalAction,
        default=True,
        help="average with the mirrored person: slower, a little better",
    )
    parser.add_argument(
        "--crop-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="input of the network in pixels (default: what the checkpoint says)",
    )
    parser.add_argument(
        "--codec",
        choices=("classic", "dark", "udp"),
        help="how heat maps are read (default: what the checkpoint says)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N, mps or auto")
    args = parser.parse_args(argv)
    if args.detector_weights and not args.detect:
        raise UserError("--detector-weights does nothing without --detect; add it.")
    for name in ("threshold", "detector_threshold"):
        if not 0 <= getattr(args, name) <= 1:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(args, name)}, but 0 to 1 is meant.")
    return args


def _where(args: Namespace) -> Where:
    """What tells the people's boxes: a file, a detector, or nobody."""
    from tcformer.cli.pose_inputs import Detector, read_boxes

    if args.boxes:
        known = read_boxes(args.boxes)
        missing = [name for name in args.files if Path(name).name not in known]
        if missing:
            raise UserError(
                f"{args.boxes} has no box in {missing[0]} ({len(missing)} of {len(args.files)} "
                "files have none)."
            )
        return lambda name, picture: known[Path(name).name]
    if args.detect:
        detector = Detector(args.detector_weights, args.detector_threshold)
        return lambda name, picture: detector(picture)
    return lambda name, picture: None


def _is_video(file: Path) -> bool:
    from tcformer.cli.pose_inputs import VIDEOS

    return file.suffix.lower() in VIDEOS


def _output(folder: Path, file: Path) -> Path:
    return folder / f"{file.stem}.pose{'.mp4' if _is_video(file) else '.png'}"


class _Results:
    """What will be in keypoints.json."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self.kind = estimator.layout
        self.images: list[dict[str, Any]] = []
        self.people: list[dict[str, Any]] = []

    def add(self, name: str, picture: NDArray[np.uint8], people: list[Person]) -> list[Person]:
        """Note the people of a picture; returns those who are not another one over again."""
        import numpy as np

        from tcformer.tasks.pose.oks import oks_nms, person_score

        image_id = len(self.images) + 1
        height, width = picture.shape[:2]
        self.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        sure = [person_score(person.box_score, person.scores) for person in people]
        kept = list(range(len(people)))
        if self.kind.sigmas is not None and people:
            points = np.stack([person.points for person in people])
            areas = np.array([person.crop.area for person in people])
            kept = oks_nms(points, np.array(sure), areas, self.kind.sigmas)
        for i in kept:
            flat = np.concatenate([people[i].points, people[i].scores[:, None]], axis=1)
            box = [float(v) for v in people[i].box]
            entry: dict[str, Any] = {"id": len(self.people) + 1, "image_id": image_id}
            entry |= {"category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for part, field in self.kind.fields.items():
                entry[field] = [round(float(v), 4) for v in flat[self.kind.slice(part)].ravel()]
            self.people.append({**entry, "score": sure[i]})
        return [people[i] for i in kept]

    def content(self) -> dict[str, Any]:
        """In COCO's format."""
        category = {"id": 1, "name": "person", "keypoints": list(self.kind.names)}
        return {"images": self.images, "annotations": self.people, "categories": [category]}


def _picture(
    file: Path,
    output: Path,
    estimator: PoseEstimator,
    where: Where,
    results: _Results,
    args: Namespace,
) -> str:
    from tcformer.viz import read_image, write_png

    picture = read_image(file)
    people = results.add(file.name, picture, _find(file.name, picture, estimator, where, args))
    drawn = _skeletons(picture, people, estimator, args.threshold)
    if args.tokens and people:
        from tcformer.viz.people import people_sheet

        chosen = people[:MOST_PEOPLE_DRAWN]
        crops = [(p.crop, p.points, p.scores, estimator.tokens(picture, p)) for p in chosen]
        drawn = people_sheet(
            picture, drawn, crops, estimator.layout, estimator.codec, threshold=args.threshold
        )
    write_png(output, drawn)
    return f"{file}: {_people(len(people))}; wrote {output}"


def _video(
    file: Path,
    output: Path,
    estimator: PoseEstimator,
    where: Where,
    results: _Results,
    args: Namespace,
) -> str:
    from rich.console import Console
    from rich.progress import track

    from tcformer.cli.pose_inputs import Video, VideoWriter

    video = Video(file)
    writer = VideoWriter(output, video.rate)
    count = 0
    try:
        console = Console(stderr=True)
        frames = track(
            video, file.name, total=video.frames, console=console, disable=not console.is_terminal
        )
        for number, picture in enumerate(frames):
            name = f"{file.name}#{number}"
            found = _find(file.name, picture, estimator, where, args)
            people = results.add(name, picture, found)
            writer.write(_skeletons(picture, people, estimator, args.threshold))
            count += 1
        if not count:
            raise UserError(f"{file} holds no frames.")
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    finally:
        video.close()
    return f"{file}: {count} frames; wrote {output}"


def _find(
    name: str,
    picture: NDArray[np.uint8],
    estimator: PoseEstimator,
    where: Where,
    args: Namespace,
) -> list[Person]:
    boxes = where(name, picture)
    if boxes is None:
        return estimator(picture, flip_test=args.flip_test)
    return estimator(picture, boxes.boxes, box_scores=boxes.scores, flip_test=args.flip_test)


def _skeletons(
    picture: NDArray[np.uint8], people: list[Person], estimator: PoseEstimator, threshold: float
) -> NDArray[np.uint8]:
    import numpy as np

    from tcformer.viz.skeleton import draw_skeleton

    if not people:
        return picture
    kind = estimator.layout
    return draw_skeleton(
        picture,
        np.stack([person.points for person in people]),
        np.stack([person.scores for person in people]),
        kind.links,
        parts=kind.parts,
        threshold=threshold,
    )


def _people(number: int) -> str:
    return "nobody found" if not number else f"{number} {'person' if number == 1 else 'people'}"
