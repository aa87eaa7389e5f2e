"""Patterns proposed from file names: of published sets and of users' own folders."""

import re

import pytest

from datasets.inspect.naming import propose
from tests.datasets.set_names import SETS

OWN_WORDS = {"ntu_pi", "tongji"}
"""Sets whose file names hold no identity, or hold it as a word of its own."""


@pytest.mark.parametrize("name", sorted(SETS.keys() - OWN_WORDS))
def test_published_names(name):
    """The proposed person, side and finger give the identities of the recipe, which the proposal does not read."""
    names = sorted(SETS[name].names())[::3]
    expression = re.compile(propose(names).pattern)
    groups = [expression.fullmatch(path).groupdict() for path in names]
    found = {tuple(group.get(part) for part in ("person", "side", "finger")) for group in groups}
    assert len(found) == len(_identities(name, names))


def _identities(name, names):
    """The identity by hand, from the place of words in the names of a set."""
    rules = {
        "iitd": r"(Left|Right)/(\d+)",
        "polyu_ii": r"PolyU_(\d+)()",
        "polyu_multispectral": r"ind/(\d+)()",
        "casia_palmprint": r"/(\d+)_._([lr])",
        "casia_multispectral": r"images/(\d+)_([lr])",
        "xjtu_up": r"/([LR])_(\d+)/",
        "mpd_v2": r"^(\d+)_\d_._([lr])",
        "polyu_iitd_v3": r"ID(\d+)/([LR])/",
        "gpds150": r"manosGPDS/(\d+)()",
        "gpds100": r"^(\d+)()",
        "fv_usm": r"vein(\d+)_(\d)",
        "sdumla": r"^(\d+)/(\w+/[a-z]+)_",
        "mmcbnu": r"^(\d+)/(\w+)/",
        "utfvp": r"^(\d+)/\d+_(\d)_",
        "vera_finger": r"/(\d+)_([LR])_",
        "plusvein_fv3": r"_(\d+)_(\d+)_\d+\.png",
        "put_vein": r"_o(\d+)_([LR])_",
        "dorsalhandveins": r"person_(\d+)_db\d_([LR])",
        "bosphorus": r"/p(\d+)/()",
        "veindeep": r"^p(\d+)_([lr])",
    }
    return {re.search(rules[name], path).groups() for path in names}


PEOPLE = ("ann", "ben", "cem", "dee")


@pytest.mark.parametrize(
    ("names", "pattern", "groups"),
    [
        ([f"{p}/{n}.jpg" for p in PEOPLE for n in range(3)], r"(?P<person>[^\W_]+)/(?P<sample>\d)\.jpg", "person"),
        (
            [f"session{s}/{p}/img{n:02d}.png" for s in (1, 2) for p in PEOPLE for n in range(3)],
            r"session(?P<session>\d)/(?P<person>[^\W_]+)/img(?P<sample>\d{2})\.png",
            "session",
        ),
        (
            [f"{s}_session/{p:03d}/{n}.bmp" for s in ("1st", "2nd") for p in range(5) for n in range(3)],
            r"(?P<session>\d)(?:nd|st)_session/(?P<person>\d{3})/(?P<sample>\d)\.bmp",
            "session",
        ),
        (
            [f"{p:03d}_{s}/a{n}.{e}" for p in range(5) for s in ("left", "right") for n, e in ((1, "jpg"), (2, "png"))],
            r"(?P<person>\d{3})_(?P<side>left|right)/a(?P<sample>\d)\.(?:jpg|png)",
            "side",
        ),
        (
            [f"{p}/{n}.jpg" for p in PEOPLE for n in ("a b", "c-d-e", "f (1)", "g")],
            r"(?P<person>[^/]+)/[^/]+",
            "person",
        ),
        (
            [f"session {s}/{p}/{n}.jpg" for s in (1, 2) for p in PEOPLE for n in ("a b", "c-d-e", "f (1)", "g")],
            r"(?P<session>session\ 1|session\ 2)/(?P<person>[^/]+)/[^/]+".replace("\\ ", " "),
            "session",
        ),
    ],
)
def test_own_folders(names, pattern, groups):
    found = propose(names)
    assert found.pattern == pattern and groups in re.compile(pattern).groupindex
    assert all(re.fullmatch(pattern, name) for name in names)


def test_running_numbers_are_a_guess():
    found = propose([f"session{s}/{n:05d}.bmp" for s in (1, 2) for n in range(1, 61)])
    assert found.identity == "(number - 1) // 10" and found.sessions == ["1", "2"]
    assert "guesses how many images in a row" in found.doubts[0]


def test_numbers_that_may_be_fingers_or_sessions_are_guesses():
    found = propose([f"{p:03d}/{p:03d}_{k}_{n}.png" for p in range(6) for k in range(1, 5) for n in range(3)])
    assert (
        "(?P<finger>" in found.pattern
        and "finger is a guess for the part of the names with 1, 2, 3, 4" in found.doubts[0]
    )


@pytest.mark.parametrize(
    "names",
    [
        [f"session{s}/{n}.jpg" for s in (1, 2, 3, 4) for n in ("a b", "c-d-e", "f (1)", "g")],
        [f"{side}/{n}.jpg" for side in ("left", "right") for n in ("a b", "c-d-e", "f (1)", "g")],
        ["a.jpg", "b c.jpg", "d-e-f.jpg"],
    ],
)
def test_no_person_is_named(names):
    assert propose(names) is None
