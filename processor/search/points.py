"""Agreeing points in a search: the order of the nearest images, and the chart of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from datasets.caches.point_cache import PointCache, PointReader
from datasets.caches.record_cache import make_room
from utils.images import Reading, read_image
from utils.plots.points import Compared, in_words, points_chart
from utils.retrieval.points import Points, agreeing_points, find_points


class Detail:
    """Agreeing points of queries with the gallery images that are nearest to them.

    Args:
        nearest: images that are compared with each query.
        paths: of the gallery images, in the order of its features.
        folder: keeps the gallery's points.
        reading: how files become pictures.

    Raises:
        ReIDError: OpenCV is missing, or an image cannot be read.
    """

    def __init__(self, nearest: int, paths: Sequence[str], folder: Path, reading: Reading) -> None:
        self.nearest, self.paths, self.reading = nearest, paths, reading
        self.points = PointReader(PointCache(paths, reading, folder=folder))
        make_room(folder, PointCache.suffix, [self.points.cache.name], 0)  # those of other galleries
        self.query: dict[str, Points] = {}

    def ordered(self, query: str, found: Sequence[tuple[int, float, None]]) -> list[tuple[int, float, int | None]]:
        """Gallery index, distance and agreeing points: the nearest by falling count, then the others as they were."""
        own = self.query.setdefault(query, find_points(read_image(query, self.reading)))
        counted = [(place, d, agreeing_points(own, self._of(place)).count) for place, d, _ in found[: self.nearest]]
        return sorted(counted, key=lambda image: -image[2]) + list(found[self.nearest :])

    def _of(self, place: int) -> Points:
        return self.points.read(self.paths[place])

    def chart(self, query: str, file: str, title: str) -> Image.Image:
        """The numbered points of a query and the gallery image in ``file``."""
        agreement = agreeing_points(self.query[query], self.points.read(file))
        pictures = [read_image(path, self.reading) for path in (query, file)]
        title = f"{title}: {in_words(agreement.count)}"
        return points_chart([Compared(*pictures, title, ("query", "enrolled"), agreement)])
