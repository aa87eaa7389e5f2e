"""Market-1501: pedestrians under six cameras in front of a supermarket."""

from __future__ import annotations

import re

from datasets.parsing.published import NamedPhotos, Size


class Market1501(NamedPhotos):
    """Market-1501.

    Reference: Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
    Page: http://www.liangzheng.org/Project/project_reid.html. Terms: academic research only.

    ============ ========== ====== =======
    split        identities images cameras
    ============ ========== ====== =======
    train        751        12,936 6
    query        750        3,368  6
    gallery      751        15,913 6
    ============ ========== ====== =======

    ::

        Market-1501-v15.09.15/
            bounding_box_train/0002_c1s1_000451_03.jpg   identity 2, camera 1, sequence 1, frame, box
            bounding_box_test/
            query/

    Protocol: gallery images of the query's person under the query's camera are ignored. Of the 19,732 images
    in ``bounding_box_test`` the 3,819 junk ones (identity -1) are dropped; the 2,798 distractors (identity 0)
    stay in the gallery as one more person without a query, hence 751.
    """

    title = "Market-1501"
    source = (
        "Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015, "
        "http://www.liangzheng.org/Project/project_reid.html (academic research only)."
    )
    folders = (
        "Market-1501-v15.09.15",
        "Market-1501",
        "market1501",
        "Market1501",
        "market1501/Market-1501-v15.09.15",
    )
    marker = "bounding_box_test"
    grammar = re.compile(r"(?P<identity>-1|\d{4})_c(?P<camera>\d)s\d_\d+_\d+\.\w+")
    example = "0002_c1s1_000451_03.jpg"
    cameras = 6
    sizes = (Size(751, 12_936), Size(750, 3_368), Size(751, 15_913))
