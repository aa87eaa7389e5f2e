"""The names of the published hand sets, as large as they are: what the recipes of configs/hand/sets are tested on."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

Names = Iterator[str]


class Facts(NamedTuple):
    """What a recipe must find: counts of identities, people (None: the names do not say), images and roles.

    ``train`` holds identities and images, ``query`` and ``gallery`` images. ``images`` are those that KEEP keeps.
    """

    names: Callable[[], Names]
    identities: int
    people: int | None
    images: int
    train: tuple[int, int]
    query: int
    gallery: int
    cameras: int = 1


def tongji() -> Names:
    return (f"session{s}/{n:05d}.bmp" for s in (1, 2) for n in range(1, 6001))


def iitd() -> Names:
    for p in range(1, 231):
        for side, six in (("Left", 151), ("Right", 150)):
            yield from (f"{side}/{p:03d}_{n}.bmp" for n in range(1, 7 if p <= six else 6))


def polyu_ii() -> Names:
    for palm in range(1, 387):
        for n in range(1, 12 if palm <= 16 else 11):
            yield from (f"PolyU_{palm:03d}_{session}_{n:02d}.bmp" for session in "FS")


def polyu_multispectral() -> Names:
    bands = ("Red", "Green", "Blue", "NIR")
    return (f"{b}_ind/{palm:04d}_{n:04d}.jpg" for b in bands for palm in range(1, 501) for n in range(1, 13))


def casia_palmprint() -> Names:
    for p in range(1, 313):
        for side in "lr":
            for n in range(1, 10 if p <= 255 else 9):
                yield f"{p:04d}/{p:04d}_{'mf'[p % 2]}_{side}_{n:02d}.jpg"


def casia_multispectral() -> Names:
    bands = ("460", "630", "700", "850", "940", "WHT")
    for p in range(1, 101):
        for side in "lr":
            yield from (f"images/{p:03d}_{side}_{band}_{n:02d}.jpg" for band in bands for n in range(1, 7))


def xjtu_up() -> Names:
    for phone in ("iPhone", "HUAWEI", "LG", "Samsung", "MI8"):
        for light in ("Flash", "Nature"):
            for p in range(1, 101):
                for side in "LR":
                    yield from (f"{phone}/{light}/{side}_{p:03d}/{n}.jpg" for n in range(10))


def mpd_v2() -> Names:
    for p in range(1, 201):
        for session in (1, 2):
            for phone in "hm":
                for side in "lr":
                    yield from (f"{p:03d}_{session}_{phone}_{side}_{n:02d}.jpg" for n in range(1, 11))


def polyu_iitd_v3() -> Names:
    return (f"H_ID{p}/{side}/{n}.JPG" for p in range(1, 601) for side in "LR" for n in range(1, 11))


def ntu_pi() -> Names:
    for palm in range(1, 2036):
        for n in range(1, 5 if palm <= 1676 else 4):
            folder = "train" if palm <= 1016 else "test" if n == 1 else "evidence"
            yield f"{folder}/{(palm + 1) // 2}-{'RL'[palm % 2]}{n}-Class{palm}.jpg"


def gpds150() -> Names:
    return (
        f"manosGPDS/{p:03d}/{view}{p}_{n}.jpg"
        for p in range(1, 151)
        for view in ("mano", "palma")
        for n in range(1, 11)
    )


def gpds100() -> Names:
    views = ("Visible", "Infraro", "Palma", "Icontvisible")
    return (f"{p:03d}/{view}_{p:03d}_{n:02d}.bmp" for p in range(1, 101) for view in views for n in range(1, 11))


def fv_usm() -> Names:
    for session in ("1st", "2nd"):
        for p in range(1, 124):
            for finger in range(1, 5):
                for n in range(1, 7):
                    yield f"{session}_session/extractedvein/vein{p:03d}_{finger}/{n:02d}.jpg"


def sdumla() -> Names:
    for p in range(1, 107):
        for side in ("left", "right"):
            for finger in ("index", "middle", "ring"):
                yield from (f"{p:03d}/{side}/{finger}_{n}.bmp" for n in range(1, 7))


def mmcbnu() -> Names:
    for p in range(1, 101):
        for side in "LR":
            for finger in ("Fore", "Middle", "Ring"):
                yield from (f"{p:03d}/{side}_{finger}/{n:02d}.bmp" for n in range(1, 11))


def utfvp() -> Names:
    for p in range(1, 61):
        for finger in range(1, 7):
            yield from (f"{p:04d}/{p:04d}_{finger}_{n}_120509-14153{n}.png" for n in range(1, 5))


def vera_finger() -> Names:
    return (f"{p:03d}-{'MF'[p % 2]}/{p:03d}_{side}_{n}.png" for p in range(1, 111) for side in "LR" for n in (1, 2))


def plusvein_fv3() -> Names:
    for light in ("LED", "Laser"):
        for p in range(1, 61):
            for finger in (2, 3, 4, 7, 8, 9):
                for n in range(1, 6):
                    name = f"PLUS-FV3-{light}_PALMAR_01_{p:03d}_{finger:02d}_{n:02d}.png"
                    yield f"PLUS-FV3-{light}/PALMAR/01/{p:03d}/{name}"


def put_vein() -> Names:
    for view in ("Palm", "Wrist"):
        for p in range(1, 51):
            for side in ("Left", "Right"):
                for series in (1, 2, 3):
                    for n in range(1, 5):
                        name = f"{view[0]}_o{p:03d}_{side[0]}_S{series}_Nr{n}.bmp"
                        yield f"{view}/o_{p:03d}/{side}/Series_{series}/{name}"


def dorsalhandveins() -> Names:
    for session, people, count in ((1, 138, 4), (2, 113, 3)):
        for p in range(1, people + 1):
            for side in "LR":
                yield from (f"DB{session}/person_{p:03d}_db{session}_{side}{n}.png" for n in range(1, count + 1))


def bosphorus() -> Names:
    kinds = ("act", "bag", "ice", "norm")
    return (f"left/p{p}/p{p}_left_{kind}_{n}.bmp" for p in range(1, 101) for kind in kinds for n in (1, 2, 3))


def veindeep() -> Names:
    for p in range(1, 21):
        for side in "lr":
            for n in range(6):
                yield from (f"p{p:02d}_{side}_{1400000000 + n}_{kind}_raw.png" for kind in ("ir", "depth"))


SETS = {
    "tongji": Facts(tongji, 600, None, 12_000, (600, 6_000), 6_000, 6_000, 2),
    "iitd": Facts(iitd, 460, 230, 2_601, (460, 1_380), 920, 1_380),
    "polyu_ii": Facts(polyu_ii, 386, None, 7_752, (386, 3_876), 3_876, 3_876, 2),
    "polyu_multispectral": Facts(polyu_multispectral, 500, None, 6_000, (500, 3_000), 3_000, 3_000, 2),
    "casia_palmprint": Facts(casia_palmprint, 624, 312, 5_502, (312, 2_748), 2_754, 2_754),
    "casia_multispectral": Facts(casia_multispectral, 200, 100, 1_200, (100, 600), 300, 300),
    "xjtu_up": Facts(xjtu_up, 200, 100, 20_000, (100, 10_000), 1_000, 1_000, 10),
    "mpd_v2": Facts(mpd_v2, 400, 200, 16_000, (280, 11_200), 2_400, 2_400, 2),
    "polyu_iitd_v3": Facts(polyu_iitd_v3, 1_200, 600, 12_000, (840, 8_400), 3_240, 360),
    "ntu_pi": Facts(ntu_pi, 2_035, 1_018, 7_781, (1_016, 4_064), 2_698, 1_019),
    "gpds150": Facts(gpds150, 150, 150, 1_500, (75, 750), 450, 300),
    "gpds100": Facts(gpds100, 100, 100, 1_000, (50, 500), 300, 200),
    "fv_usm": Facts(fv_usm, 492, 123, 5_904, (248, 2_976), 1_464, 1_464, 2),
    "sdumla": Facts(sdumla, 636, 106, 3_816, (318, 1_908), 1_908, 1_908),
    "mmcbnu": Facts(mmcbnu, 600, 100, 6_000, (300, 3_000), 3_000, 3_000),
    "utfvp": Facts(utfvp, 360, 60, 1_440, (60, 240), 384, 384, 2),
    "vera_finger": Facts(vera_finger, 220, 110, 440, (0, 0), 220, 220),
    "plusvein_fv3": Facts(plusvein_fv3, 360, 60, 1_800, (180, 900), 900, 900),
    "put_vein": Facts(put_vein, 50, 50, 600, (25, 300), 200, 100, 3),
    "dorsalhandveins": Facts(dorsalhandveins, 226, 113, 1_582, (226, 904), 678, 904, 2),
    "bosphorus": Facts(bosphorus, 100, 100, 1_200, (50, 600), 600, 600),
    "veindeep": Facts(veindeep, 40, 20, 240, (20, 120), 100, 20),
}
