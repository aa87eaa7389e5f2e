"""Finding hands in photographs with MediaPipe's hand detector, whose weights are in its wheels.

The detector (Zhang et al., arXiv 2006.10214) finds palms, and 21 key points in each. Its handedness label assumes a
mirrored picture: ``Left`` is a right hand, for palms and backs alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from utils.errors import ReIDError
from utils.optional import MissingPackageError, import_optional
from utils.windows import border_colour

PACKAGE = "mediapipe>=0.10.14,<0.10.22"
"""Later wheels have no weights."""

MOST_HANDS = 2
LEAST_SCORE = 0.5
"""Of the palm detector, its own default."""

_HANDS = {"Left": "right", "Right": "left"}


class FoundHand(NamedTuple):
    """A hand in a picture: ``points`` [21, 2] in its pixels, which hand, and how certain MediaPipe is of which."""

    points: npt.NDArray[np.float64]
    hand: str
    score: float


class HandDetector:
    """MediaPipe's detector for single pictures.

    Raises:
        ReIDError: MediaPipe is not installed, or has no weights.
    """

    def __init__(self) -> None:
        try:
            hands = import_optional("mediapipe").solutions.hands
            self.network = hands.Hands(
                static_image_mode=True, max_num_hands=MOST_HANDS, min_detection_confidence=LEAST_SCORE
            )
        except (MissingPackageError, AttributeError, OSError, RuntimeError) as error:
            raise ReIDError(
                f"finding hands needs MediaPipe ({error}). Type pip install '{PACKAGE}' (Python 3.9 to 3.12), here or "
                "in an environment of its own."
            ) from None

    def __call__(self, picture: Image.Image) -> list[FoundHand]:
        """The hands in an RGB picture, the largest first.

        If none is found, the picture is searched with a border of its median border colour, then with its edge pixels
        repeated: this finds hands that the picture cuts off. Of 26 photographs of 638 of 11k Hands without a hand 8
        remain.
        """
        pixels, quarter = np.asarray(picture), min(picture.size) // 4
        return (
            self._find(pixels)
            or self._find(np.asarray(ImageOps.expand(picture, quarter, border_colour(picture))), quarter)
            or self._find(np.pad(pixels, ((2 * quarter,) * 2, (2 * quarter,) * 2, (0, 0)), mode="edge"), 2 * quarter)
        )

    def _find(self, pixels: npt.NDArray[np.uint8], border: int = 0) -> list[FoundHand]:
        """The hands in ``pixels`` [H, W, 3]; coordinates of their points start inside the border."""
        found = self.network.process(pixels)
        hands = []
        for marks, sides in zip(found.multi_hand_landmarks or (), found.multi_handedness or (), strict=True):
            points = np.array([[mark.x, mark.y] for mark in marks.landmark]) * pixels.shape[1::-1] - border
            side = sides.classification[0]
            hands.append(FoundHand(points, _HANDS[side.label], float(side.score)))
        return sorted(hands, key=lambda hand: -np.prod(np.ptp(hand.points, axis=0)))
