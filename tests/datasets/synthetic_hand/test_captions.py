"""Attributes of drawn hands agree with the drawing, without another picture."""

import numpy as np

from datasets.synthetic_hand.anatomy import AVERAGE_RADII
from datasets.synthetic_hand.captions import drawn_attributes
from datasets.synthetic_hand.dataset import SyntheticHand, _rng, identity_hand


def test_attributes_are_those_of_the_hand():
    seen = {}
    for identity in range(60):
        hand = identity_hand(3, identity)
        for number, aspect in enumerate(("dorsal", "palmar")):
            found = drawn_attributes(hand, aspect, _rng(3, identity, 1 + number))
            for name, value in found.items():
                seen.setdefault(name, set()).add(value)
            assert found["hand"] == ("right" if hand.right else "left") and found["side"] == aspect
            assert ("veins" not in found and "nails" not in found) or aspect == "dorsal"
            width = (hand.radii / AVERAGE_RADII).mean()
            assert found.get("build") == ("slender" if width < 0.95 else "broad" if width >= 1.11 else None)
    assert seen["skin"] == {"very fair", "fair", "medium", "dark"}
    assert seen["table"] == {"white", "light grey", "grey", "blue grey", "beige", "dark"}
    assert seen["pose"] == {"closed", "spread"} and seen["lines"] == {"fine", "deep"}


def test_the_table_is_the_one_of_the_picture(tmp_path):
    """The border of a picture shows the table: white tables are brighter than dark ones in any light."""
    from PIL import Image

    data = SyntheticHand(tmp_path, train_identities=12, test_identities=1, images_per_identity=4, size=32)
    rims = {}
    for record in data.train:
        pixels = np.asarray(Image.open(record.path), dtype=float)
        rims.setdefault(data.attributes[record.path]["table"], []).append(np.median(pixels[:3]))
    assert max(rims["dark"]) < min(rims["white"])
    assert {r.path for r in (*data.train, *data.test_images)} == data.attributes.keys()
