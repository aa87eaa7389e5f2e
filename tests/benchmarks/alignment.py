"""Measure the effect of INPUT.ALIGN on queries turned by random angles and on left hands against right ones.

    python -m datasets.keypoints --root data/11k_hands --output output/alignment/photos.csv
    python -m tests.benchmarks.alignment --weights data/tf_efficientnet_lite0.safetensors --root data/11k_hands
    python -m tests.benchmarks.alignment --weights data/tf_efficientnet_lite0.safetensors --drawn

Features are those of ImageNet's weights, not trained on hands. Queries of the test people of each aspect are searched
in ten splits. Then each query is turned in its own frame by an angle of its own, drawn by a seed, and its points are
found again. Of drawn hands the points are the true ones, and those that the detector finds. MediaPipe is needed where a
file of points is missing. Features, pictures and points stay in OUTPUT: the same command resumes.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from configs import load_config
from datasets import make_dataset
from datasets.bases import QueryGallerySplit, Record
from datasets.keypoints import Work, find_keypoints
from datasets.parsing.draws import shuffled
from datasets.parsing.keypoints import KeyPoints, read_keypoints, write_keypoints
from datasets.reading.alignment import window_of
from processor import load_embedder
from processor.embedder import Embedder
from utils.console.arguments import make_parser
from utils.images import Reading, read_image
from utils.metrics import Features, evaluate
from utils.plots.sheets import Shown, contact_sheet
from utils.windows import border_colour

CONFIG = Path(__file__).parents[2] / "configs" / "hand" / "hand_11k_efficientnet.yml"
ASPECTS = ("dorsal right", "dorsal left", "palmar right", "palmar left")
ALIGN = ("none", "rotate", "crop", "palm")
SIZE = (224, 224)
DRAWN = {"TRAIN_IDS": 2, "TEST_IDS": 20, "IMAGES_PER_ID": 10, "SIZE": 160}
SHORTEST = 600
"""Pixels to which the shorter side of a photograph is reduced before it is turned."""

Points = Mapping[str, KeyPoints]


class Pictures(NamedTuple):
    """Paths of pictures by name, their key points by name, and a word for the files that keep their features."""

    word: str
    paths: Mapping[str, str]
    points: Points


class Bench:
    """Features of pictures, computed once and kept in ``output``.

    Args:
        weights: ImageNet's, for each value of ALIGN; or the folder of the trainings, one for each value.
        trained: which of the two.
        output: folder.
    """

    def __init__(self, weights: Path, trained: bool, output: Path) -> None:
        self.weights, self.trained, self.output = weights, trained, output

    @cached_property
    def untrained(self) -> Embedder:
        """ImageNet's features, without those of the mirror image."""
        keys = ["INPUT.SIZE_TRAIN", str(list(SIZE)), "INPUT.SIZE_TEST", str(list(SIZE)), "DATALOADER.NUM_WORKERS", "0"]
        keys += ["INPUT.PIXEL_MEAN", "[0.5,0.5,0.5]", "INPUT.PIXEL_STD", "[0.5,0.5,0.5]", "TEST.FLIP", "False"]
        keys += ["INPUT.JPEG_DRAFT", "True"]
        return load_embedder(CONFIG, self.weights, [*keys, "INPUT.EXIF", "True", "MODEL.DEVICE", "cpu"])

    def embedder(self, align: str) -> Embedder:
        """The network for pictures that are aligned by ``align``; with trainings, as its training left it."""
        if not self.trained:
            return self.untrained
        (checkpoint,) = (self.weights / align).glob("*lite0_[0-9]*.pth")
        keys = ["INPUT.EXIF", "True", "DATALOADER.NUM_WORKERS", "0", "MODEL.DEVICE", "cpu"]
        return load_embedder(CONFIG, checkpoint, keys)

    def reading(self, pictures: Pictures, align: str, mirror: bool = False) -> Reading:
        """How ``pictures`` are read: those without points as a whole."""
        windows = {}
        for name, path in pictures.paths.items() if align != "none" else ():
            window = window_of(align, pictures.points[name], SIZE) if name in pictures.points else None
            windows |= {path: window} if window else {}
        return Reading(True, windows=windows, mirrored=frozenset(pictures.paths.values()) if mirror else frozenset())

    def features(self, pictures: Pictures, align: str, mirror: bool = False) -> dict[str, np.ndarray]:
        """Of each picture by name."""
        reading = self.reading(pictures, align, mirror)
        lines = [f"{name} {reading.place(path)}" for name, path in pictures.paths.items()]
        key = zlib.crc32("\n".join(lines).encode())
        folder = "features_trained" if self.trained else "features"
        file = self.output / folder / f"{pictures.word}_{align}{'_mirrored' if mirror else ''}_{key:08x}.npy"
        if not file.exists():
            found = replace(self.embedder(align), reading=reading, windows=None).embed(list(pictures.paths.values()))
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, found)
        return dict(zip(pictures.paths, np.load(file), strict=True))


def turned(pictures: Pictures, folder: Path, seed: int = 0) -> tuple[Pictures, dict[str, float]]:
    """The pictures, each turned about its middle in its own frame, below ``folder``, and their angles by name."""
    angles = {name: _angle(name, seed) for name in pictures.paths}
    paths = {name: folder / name for name in pictures.paths}
    for name, path in paths.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = read_image(pictures.paths[name], Reading(True), SHORTEST)
            # Pillow turns counter-clockwise.
            made = picture.rotate(-angles[name], Image.Resampling.BICUBIC, fillcolor=border_colour(picture))
            temporary = path.with_stem(f".{path.stem}")
            made.save(temporary, quality=95)
            temporary.rename(path)
    return Pictures(f"{pictures.word}_turned", {name: str(path) for name, path in paths.items()}, {}), angles


def _angle(name: str, seed: int) -> float:
    return float(np.random.default_rng([seed, zlib.crc32(name.encode())]).uniform(-180, 180))


def turned_points(points: Points, angles: Mapping[str, float]) -> Points:
    """The points of the turned pictures, by the same angles."""
    found = {}
    for name, angle in angles.items():
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        middle = np.array(points[name].size) / 2
        moved = (points[name].points - middle) @ np.array([[cos, sin], [-sin, cos]]) + middle
        found[name] = points[name]._replace(points=moved)
    return found


def detected(pictures: Pictures, file: Path) -> Points:
    """What the detector finds in ``pictures``; the file keeps it."""
    if not file.exists() or any(name not in read_keypoints(file).images for name in pictures.paths):
        find_keypoints(Work(pictures.paths), file)
    return read_keypoints(file).images


def scores(
    trials: Sequence[Sequence[QueryGallerySplit[Record]]],
    name: Callable[[Record], str],
    query: Mapping[str, np.ndarray],
    gallery: Mapping[str, np.ndarray],
    metric: str = "cosine",
) -> dict[str, float]:
    """mAP and Rank-1 in percent: means over the aspects, then mean and deviation over the splits."""
    rows = []
    for splits in zip(*trials, strict=True):
        found = []
        for split in splits:
            parts = [
                Features(
                    torch.from_numpy(np.stack([features[name(record)] for record in records])),
                    np.array([record.pid for record in records]),
                    np.zeros(len(records), int),
                )
                for features, records in ((query, split.query), (gallery, split.gallery))
            ]
            metrics = evaluate(*parts, camera_rule="none", metric=metric)
            found.append((100 * metrics.mAP, 100 * metrics.rank(1)))
        rows.append(np.mean(found, 0))
    means, deviations = np.mean(rows, 0), np.std(rows, 0, ddof=1) if len(rows) > 1 else (0.0, 0.0)
    return {"mAP": means[0], "mAP_sd": float(deviations[0]), "R1": means[1], "R1_sd": float(deviations[1])}


def rotation_table(
    bench: Bench, upright: Pictures, other: Pictures, trials: Sequence, name: Callable[[Record], str]
) -> dict[str, dict[str, float]]:
    """For each ALIGN: upright queries, turned queries, and how many of these have no points."""
    table = {}
    for align in ALIGN:
        gallery = bench.features(upright, align)
        row = {f"upright {k}": v for k, v in scores(trials, name, gallery, gallery).items()}
        row |= {f"turned {k}": v for k, v in scores(trials, name, bench.features(other, align), gallery).items()}
        row["without points"] = 0 if align == "none" else len(other.paths) - len(bench.reading(other, align).windows)
        table[align] = row
        print(f"{other.word:>22} {align:>7}", {k: round(v, 1) for k, v in row.items()}, flush=True)  # noqa: T201
    return table


def places(pictures: Pictures) -> dict[str, np.ndarray]:
    """Where wrist and middle knuckle are in each picture [4], standardised; the mean where they were not found."""
    found = {name: pictures.points[name] for name in pictures.paths}
    rows = np.array([(p.points[[0, 9]] / p.size).ravel() for p in found.values()])
    rows = np.nan_to_num((rows - np.nanmean(rows, 0)) / np.nanstd(rows, 0))
    return dict(zip(found, rows.astype(np.float32), strict=True))


def sheet(bench: Bench, pictures: Sequence[Pictures], file: Path, columns: int = 10) -> None:
    """Some pictures as the network receives them under each value of ALIGN."""
    names = list(pictures[0].paths)
    chosen = [names[i] for i in np.linspace(0, len(names) - 1, columns).astype(int)]
    rows = []
    for part in pictures:
        for align in ALIGN:
            reading = bench.reading(part, align)
            shown = [Shown(part.paths[name], f"{align}\n{part.word}") for name in chosen]
            rows.append(np.asarray(contact_sheet([shown], "", (120, 120), reading)))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    Image.fromarray(np.concatenate(padded)).save(file)


def photographs(bench: Bench, root: str, points: Path) -> dict[str, object]:
    """Both tables of 11k Hands; of trained networks the first, on the aspect of their training."""
    sets = []
    for aspect in (load_config(CONFIG)[0].DATASETS.ASPECT,) if bench.trained else ASPECTS:
        keys = ["DATASETS.ROOT_DIR", root, "DATASETS.ASPECT", aspect, "DATASETS.GALLERY", "aspect"]
        sets.append(make_dataset(load_config(CONFIG, keys)[0], require_train=False))
    base = str(sets[0].root)

    def name(record: Record) -> str:
        return record.path.removeprefix(f"{base}/")

    known = read_keypoints(points).images
    tested = {name(record): record.path for data in sets for record in data.test_images}
    upright = Pictures("photos", tested, known)
    other, _ = turned(upright, bench.output / "photos_turned")
    other = other._replace(points=detected(other, bench.output / "photos_turned.csv"))
    table = rotation_table(bench, upright, other, [data.trials for data in sets], name)
    if bench.trained:
        return {"rotation, trained": table}
    sheet(bench, [upright, other], bench.output / "photos.png")
    where = places(upright)
    by_place = scores([data.trials for data in sets], name, where, where, "euclidean")
    print("place and angle alone", by_place, flush=True)  # noqa: T201
    return {"rotation": table, "place and angle alone": by_place, "mirror": mirror_table(bench, sets, name, known)}


def mirror_table(bench: Bench, sets: Sequence, name: Callable[[Record], str], known: Points) -> dict[str, object]:
    """Left queries against one right image of each person with both hands, by aspect: ten draws, and chance."""
    table: dict[str, object] = {}
    for side in ("dorsal", "palmar"):
        hands: dict[str, dict[str, list[str]]] = {"left": {}, "right": {}}
        paths = {}
        for data in sets:
            for record in (*data.train, *data.val, *data.test_images):
                shown = data.attributes[record.path]
                if shown["side"] == side and name(record) not in paths:
                    paths[name(record)] = record.path
                    hands[shown["hand"]].setdefault(shown["person"], []).append(name(record))
        people = sorted(hands["left"].keys() & hands["right"].keys())
        table[f"{side} people"] = len(people)
        table[f"{side} chance"] = {
            "mAP": 100 * sum(1 / k for k in range(1, len(people) + 1)) / len(people),
            "R1": 100 / len(people),
        }
        for align in ("none", "crop"):
            left, right = (
                Pictures(f"{hand}_{side}", {n: paths[n] for p in people for n in hands[hand][p]}, known)
                for hand in ("left", "right")
            )
            gallery = bench.features(right, align)
            for mirror in (False, True):
                query = bench.features(left, align, mirror)
                found = [
                    _cross(people, hands["left"], query, gallery, draw) for draw in _draws(people, hands["right"], 10)
                ]
                means = np.mean(found, 0)
                table[f"{side} {align} {'MIRROR left' if mirror else 'as they are'}"] = {
                    "mAP": means[0],
                    "R1": means[1],
                    "queries": len(query),
                }
    for key, row in table.items():
        print(key, row, flush=True)  # noqa: T201
    return table


def _draws(people: Sequence[str], images: Mapping[str, Sequence[str]], count: int) -> Iterator[list[str]]:
    """One image of each person, ``count`` times."""
    for run in range(count):
        yield [shuffled(sorted(images[person]), run, "right", person)[0] for person in people]


def _cross(
    people: Sequence[str], images: Mapping[str, Sequence[str]], query: Mapping, gallery: Mapping, drawn: Sequence[str]
) -> tuple[float, float]:
    asked = [(number, image) for number, person in enumerate(people) for image in images[person]]
    parts = [
        Features(torch.from_numpy(np.stack(rows)), np.array(pids), np.zeros(len(pids), int))
        for rows, pids in (
            ([query[image] for _, image in asked], [number for number, _ in asked]),
            ([gallery[image] for image in drawn], range(len(people))),
        )
    ]
    metrics = evaluate(*parts, camera_rule="none", metric="cosine")
    return 100 * metrics.mAP, 100 * metrics.rank(1)


def drawings(bench: Bench) -> dict[str, object]:
    """The rotation of drawn hands by their true points, and by those that the detector finds."""
    keys = [word for key, value in DRAWN.items() for word in (f"DATASETS.SYNTHETIC.{key}", str(value))]
    cfg, _ = load_config(
        CONFIG, ["DATASETS.NAMES", "synthetic_hand", "DATASETS.ROOT_DIR", str(bench.output / "hands"), *keys]
    )
    data = make_dataset(cfg, require_train=False)

    def name(record: Record) -> str:
        return record.path.removeprefix(f"{data.root}/")

    true = read_keypoints(Path(data.root) / "keypoints.csv").images
    upright = Pictures("drawn", {name(record): record.path for record in data.test_images}, true)
    other, angles = turned(upright, bench.output / "drawn_turned")
    other = other._replace(points=turned_points(true, angles))
    write_keypoints(bench.output / "drawn_turned.csv", other.points)
    result: dict[str, object] = {"true points": rotation_table(bench, upright, other, [data.trials], name)}
    sheet(bench, [upright, other], bench.output / "drawn.png")
    found = Pictures("drawn_found", upright.paths, detected(upright, bench.output / "drawn_found.csv"))
    again = Pictures("drawn_turned_found", other.paths, detected(other, bench.output / "drawn_turned_found.csv"))
    errors = {}
    for word, part, exact in (("upright", found, true), ("turned", again, other.points)):
        sizes = {n: np.hypot(*(exact[n].points[0] - exact[n].points[9])) for n in part.paths}
        off = [
            np.hypot(*(part.points[n].points - exact[n].points).T).mean() / sizes[n]
            for n in part.paths
            if part.points[n].found
        ]
        sides = [part.points[n].hand == exact[n].hand for n in part.paths if part.points[n].found]
        errors[word] = {
            "images": len(part.paths),
            "found": len(off),
            "median error, share of the palm": float(np.median(off)) if off else None,
            "right hand named": float(np.mean(sides)) if sides else None,
        }
    print(errors, flush=True)  # noqa: T201
    return result | {"detector": errors, "found points": rotation_table(bench, found, again, [data.trials], name)}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = make_parser("python -m tests.benchmarks.alignment", __doc__)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--weights", type=Path, help="ImageNet's weights of EfficientNet-Lite0, docs/methods.md")
    given.add_argument("--trained", metavar="DIR", type=Path, help="folders none, rotate, crop, palm of the trainings")
    parser.add_argument("--root", help="11k Hands")
    parser.add_argument("--points", type=Path, help="its key points; default: photos.csv in OUTPUT")
    parser.add_argument("--drawn", action="store_true", help="drawn hands")
    parser.add_argument("--output", type=Path, default=Path("output/alignment"), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    bench = Bench(arguments.weights or arguments.trained, bool(arguments.trained), arguments.output)
    bench.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, object] = {}
    if arguments.root:
        results["photographs"] = photographs(bench, arguments.root, arguments.points or bench.output / "photos.csv")
    if arguments.drawn:
        results["drawn"] = drawings(bench)
    file = bench.output / f"results_{'trained_' * bench.trained}{'_'.join(results)}.json"
    file.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
