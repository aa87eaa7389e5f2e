"""Occluded-Duke: DukeMTMC-reID split so that every query is occluded."""

from __future__ import annotations

from datasets.dukemtmcreid import DukeMTMCreID
from datasets.parsing.published import Size


class OccludedDuke(DukeMTMCreID):
    """Occluded-Duke (Occluded-DukeMTMC).

    Reference: Miao et al., "Pose-Guided Feature Alignment for Occluded Person Re-Identification", ICCV 2019.
    Page: https://github.com/lightas/Occluded-DukeMTMC-Dataset. It publishes lists of names and a script that
    makes the folder from DukeMTMC-reID.zip. Terms: those of DukeMTMC-reID, which was withdrawn in 2019.

    ============ ========== ====== =======
    split        identities images cameras
    ============ ========== ====== =======
    train        702        15,618 8
    query        519        2,210  8
    gallery      1,110      17,661 8
    ============ ========== ====== =======

    ::

        dukemtmcreid/Occluded_Duke/
            bounding_box_train/0001_c2_f0046182.jpg   named as in DukeMTMC-reID
            bounding_box_test/
            query/

    Protocol: gallery images of the query's person under the query's camera are ignored. The published reader
    gives every image view 1; here, as everywhere without view labels, it is 0 (their camera x view numbering
    overflows).
    """

    title = "Occluded-Duke"
    source = (
        "Miao et al., Pose-Guided Feature Alignment for Occluded Person Re-Identification, ICCV 2019, "
        "https://github.com/lightas/Occluded-DukeMTMC-Dataset: its script makes the folder from "
        "DukeMTMC-reID.zip, which Duke University withdrew in 2019."
    )
    folders = (
        "dukemtmcreid/Occluded_Duke",
        "Occluded_Duke",
        "Occluded-Duke",
        "Occluded-DukeMTMC-reID",
        "occluded_duke",
        "occ_duke",
    )
    sizes = (Size(702, 15_618), Size(519, 2_210), Size(1_110, 17_661))
