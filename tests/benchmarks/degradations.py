"""Measure how each matcher loses accuracy when query images are turned, scaled, blurred, covered and so on.

    python -m tests.benchmarks.degradations --config_file configs/hand/fkp_efficientnet.yml --people 10 \\
        TEST.WEIGHT output/hand/fkp_efficientnet/timm-tf_efficientnet_lite0_12.pth
    python -m tests.benchmarks.degradations --matchers global points --config_file RUN/config.yml \\
        TEST.WEIGHT RUN/MODEL.pth

Rows are degradations, columns mAP / Rank-1 in percent of the features alone (global), of the --nearest ordered by
points (points), of phase-only correlation (poc) and of the joint score of all three, fitted on training people (joint).
Any trained method is put in by its configuration and weights. --people takes the first test people and --queries so
many query images of each identity, which saves time; the numbers are then of that part.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from configs import load_config
from datasets import make_dataloader, make_dataset
from datasets.bases import QueryGallerySplit, Record, ReIDDataset
from datasets.caches.point_cache import PointReader, find_all
from datasets.reading.images import ImageDataset
from model import DataFacts, make_test_model
from processor.testing.evaluation import _images, _rank, _rank_locally
from processor.testing.local_matching import LocalMatching
from utils.compute.device import choose_device
from utils.console.arguments import make_parser
from utils.images import read_image
from utils.retrieval.points import Points

Degradation = Callable[[Image.Image], Image.Image]

MATCHERS = {
    "global": (),
    "points": ("TEST.POINTS", "{nearest}"),
    "poc": ("TEST.LOCAL", "poc"),
    "joint": ("TEST.POINTS", "{nearest}", "TEST.FUSE_LOCAL", "fit"),
}
"""Keys of each column."""


def moved(turn: float = 0, scale: float = 1, shift: float = 0) -> Degradation:
    """Turned by degrees, scaled about the centre and shifted by a share of each side; what comes in is mean grey."""

    def change(image: Image.Image) -> Image.Image:
        mean = tuple(int(value) for value in np.asarray(image).reshape(-1, 3).mean(0))
        cos, sin = np.cos(np.radians(turn)) / scale, np.sin(np.radians(turn)) / scale
        x, y = image.width / 2, image.height / 2
        across, down = x + shift * image.width, y + shift * image.height
        inverse = (cos, sin, x - cos * across - sin * down, -sin, cos, y + sin * across - cos * down)
        how = {"resample": Image.Resampling.BICUBIC, "fillcolor": mean}
        return image.transform(image.size, Image.Transform.AFFINE, inverse, **how)

    return change


def blurred(share: float) -> Degradation:
    """By a Gaussian whose standard deviation is a share of the longer side."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def smaller(factor: int) -> Degradation:
    """With so many times fewer pixels on each side."""
    return lambda image: image.resize([max(1, side // factor) for side in image.size], Image.Resampling.BOX)


def compressed(quality: int) -> Degradation:
    """By JPEG."""

    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def covered(share: float) -> Degradation:
    """A share of the width, from the left, in black."""

    def change(image: Image.Image) -> Image.Image:
        image = image.copy()
        image.paste((0, 0, 0), (0, 0, round(share * image.width), image.height))
        return image

    return change


def noisy(sigma: float) -> Degradation:
    """Grey noise of this standard deviation, the same in every image."""

    def change(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, sigma, (image.height, image.width, 1))
        return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))

    return change


DEGRADATIONS: dict[str, Degradation] = {
    "none": lambda image: image,
    "turned by 10 degrees": moved(turn=10),
    "turned by 20 degrees": moved(turn=20),
    "scaled by 0.85": moved(scale=0.85),
    "scaled by 1.2": moved(scale=1.2),
    "shifted by 10 %": moved(shift=0.1),
    "blurred, 1 % of the side": blurred(0.01),
    "a third of the resolution": smaller(3),
    "JPEG quality 10": compressed(10),
    "a quarter covered": covered(0.25),
    "half covered": covered(0.5),
    "noise of 20 grey values": noisy(20),
}


class Row(NamedTuple):
    """mAP and Rank-1 in percent by matcher, under one degradation."""

    degradation: str
    found: dict[str, tuple[float, float]]


def part_of(dataset: ReIDDataset, people: int, queries: int) -> tuple[list[Record], list[Record]]:
    """Query and gallery of the first people, with at most so many queries of an identity; 0: all."""
    names = [dataset.person(r) or dataset.test_identities[r.pid] for r in dataset.query]
    chosen = sorted(set(names))[: people or None]
    pids = {record.pid for record, name in zip(dataset.query, names, strict=True) if name in chosen}
    seen: dict[int, int] = {}
    query = []
    for record in dataset.query:
        seen[record.pid] = seen.get(record.pid, 0) + 1
        if record.pid in pids and (not queries or seen[record.pid] <= queries):
            query.append(record)
    return query, [record for record in dataset.gallery if record.pid in pids]


def measure(
    config_file: str, overrides: Sequence[str], people: int, queries: int, nearest: str, matchers: Sequence[str]
) -> list[Row]:
    """A row for each degradation."""

    def config(matcher: str):
        keys = [key.format(nearest=nearest) for key in MATCHERS[matcher]]
        return load_config(config_file, [*overrides, *keys])[0]

    cfgs = {matcher: config(matcher) for matcher in matchers}
    cfg = load_config(config_file, overrides)[0]
    dataset = make_dataset(cfg, require_train="joint" in matchers)
    loader = make_dataloader(cfg, dataset).test
    model = make_test_model(cfg, DataFacts(0, cameras=dataset.num_cameras, views=dataset.num_views))
    device = choose_device(cfg.MODEL.DEVICE, cfg.MODEL.DEVICE_ID)
    model.to(device)
    query, gallery = part_of(dataset, people, queries)
    rows, joint, workplace = [], None, SimpleNamespace(device=device)
    known = _images(cfg, model, _loader(gallery, loader), workplace)
    detailed = any(keys.TEST.POINTS != "0" for keys in cfgs.values())
    points = find_all(cfg, [record.path for record in gallery], dataset) if detailed else None
    with tempfile.TemporaryDirectory() as folder:
        run = SimpleNamespace(device=device, output_dir=Path(folder))
        for name, degrade in DEGRADATIONS.items():
            changed = _written(query, dataset, degrade, Path(folder) / str(len(rows)))
            split = _images(cfg, model, _loader(changed, loader), run), known
            own = find_all(cfg, [record.path for record in changed], dataset) if detailed else None
            found = {}
            for matcher, keys in cfgs.items():
                if matcher == "global":
                    outcome = _rank(keys, *split, dataset.camera_rule, run, "")
                else:
                    local = LocalMatching(keys, dataset, _loader([*changed, *gallery], loader), model, run)
                    local.points = Both(own, points)
                    if matcher == "joint":
                        local.joint = joint = joint or local.joint  # fitted once
                    trial = QueryGallerySplit(None, changed, gallery)
                    outcome = _rank_locally(keys, trial, *split, dataset.camera_rule, local)
                found[matcher] = 100 * outcome.metrics.mAP, 100 * outcome.metrics.rank(1)
            rows.append(Row(name, found))
            sys.stdout.write(table(rows[-1:], header=len(rows) == 1) + "\n")
            sys.stdout.flush()
    return rows


@dataclass(frozen=True)
class Both:
    """Points of changed queries and of the gallery, which are found once."""

    query: PointReader | None
    gallery: PointReader | None

    def read(self, path: str) -> Points:
        """Of either."""
        return (self.query if path in self.query.cache.kept else self.gallery).read(path)


def _loader(records: Sequence[Record], like: DataLoader) -> DataLoader:
    """Images prepared as those of another loader."""
    return DataLoader(
        ImageDataset(records, like.dataset.transform, read=like.dataset.read),
        like.batch_size,
        collate_fn=like.collate_fn,
    )


def _written(query: Sequence[Record], dataset: ReIDDataset, degrade: Degradation, folder: Path) -> list[Record]:
    folder.mkdir()
    changed = []
    for number, record in enumerate(query):
        path = folder / f"{number}.png"
        degrade(read_image(record.path, dataset.reading)).save(path)
        changed.append(record._replace(path=str(path)))
    return changed


def table(rows: Sequence[Row], header: bool = True) -> str:
    """Rows of a Markdown table: mAP / Rank-1."""
    columns = list(rows[0].found)
    lines = [f"| query images | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"] if header else []
    for row in rows:
        cells = (f"{mean:.1f} / {first:.1f}" for mean, first in row.found.values())
        lines.append(f"| {row.degradation} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser("python -m tests.benchmarks.degradations", __doc__)
    parser.add_argument("--config_file", required=True)
    parser.add_argument("--people", type=int, default=0, help="so many test people; 0: all")
    parser.add_argument("--queries", type=int, default=0, help="so many queries of an identity; 0: all")
    parser.add_argument("--nearest", default="100", help="images ordered by points, or all")
    parser.add_argument(
        "--matchers", metavar="NAME", nargs="+", choices=MATCHERS, default=list(MATCHERS), help=", ".join(MATCHERS)
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE")
    options = parser.parse_intermixed_args(argv)
    given = options.people, options.queries, options.nearest, options.matchers
    rows = measure(options.config_file, options.opts, *given)
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
