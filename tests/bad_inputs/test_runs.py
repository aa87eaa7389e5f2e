"""Files that one run writes and a later one reads: states and their manifests, numbers, arrays, the vocabulary."""

import gzip
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch

from model.clip import simple_tokenizer
from processor.extract import extract
from processor.html_report import write_report
from processor.runs import folder as run_folder
from processor.runs.folder import read_run
from processor.runs.states import TrainingStates, _sha256
from tests.bad_inputs.kit import Case, Hostile, cases, judge
from tests.processor.test_html_report import make_run
from utils.images import Reading


# ---------------------------------------------------------------------------------------------------------- states
def damage(change):
    """Two good states, of which ``change`` damages the newer: from the folder to what was in it."""

    def make(path):
        states = TrainingStates(path)
        for number in (1, 2):
            states.save({"number": number, "tensor": torch.ones(3)})
        change(path / "state_000002.pt", path / "state_000002.json")

    return make


def forge(content):
    """A state with a fitting manifest: the checksum finds damage, not forgery."""

    def change(state, manifest):
        content(state)
        manifest.write_text(json.dumps({"bytes": state.stat().st_size, "sha256": _sha256(state)}))

    return change


def turn(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def manifest(text):
    return damage(lambda _, path: path.write_bytes(text))


def kept(number):
    return lambda found: found["number"] == number


STATES = cases(
    Case("whole", damage(lambda *_: None), kept(2)),
    Case("turned-bit", damage(lambda state, _: turn(state)), kept(1)),
    Case("cut", damage(lambda state, _: state.write_bytes(state.read_bytes()[:-9])), kept(1)),
    Case("longer", damage(lambda state, _: state.write_bytes(state.read_bytes() + b"x")), kept(1)),
    Case("empty", damage(lambda state, _: state.write_bytes(b"")), kept(1)),
    Case("gone", damage(lambda state, _: state.unlink()), kept(1)),
    Case("folder", damage(lambda state, _: (state.unlink(), state.mkdir())), kept(1)),
    Case("pipe", damage(lambda state, _: (state.unlink(), os.mkfifo(state))), kept(1)),
    Case("device", damage(lambda state, _: (state.unlink(), state.symlink_to("/dev/zero"))), kept(1)),
    Case("loop", damage(lambda state, _: (state.unlink(), state.symlink_to(state))), kept(1)),
    Case("order", damage(forge(lambda state: torch.save({"a": Hostile()}, state))), kept(1)),
    Case(
        "order-legacy", damage(forge(lambda s: torch.save(Hostile(), s, _use_new_zipfile_serialization=False))), kept(1)
    ),
    Case("forged-text", damage(forge(lambda state: state.write_text("hello"))), kept(1)),
    Case("no-manifest", damage(lambda _, path: path.unlink()), kept(1)),
    Case("manifest-empty", manifest(b""), kept(1)),
    Case("manifest-list", manifest(b"[1, 2]"), kept(1)),
    Case("manifest-null", manifest(b"null"), kept(1)),
    Case("manifest-deep", manifest(b"[" * 4000), kept(1)),
    Case("manifest-huge", manifest(b" " * 5000 + b"{}"), kept(1)),
    Case("manifest-binary", manifest(bytes(range(256))), kept(1)),
    Case("manifest-of-another", manifest(json.dumps({"bytes": 1, "sha256": "0" * 64}).encode()), kept(1)),
    Case("manifest-types", manifest(b'{"bytes": [], "sha256": {}}'), kept(1)),
    Case("manifest-pipe", damage(lambda _, path: (path.unlink(), os.mkfifo(path))), kept(1)),
    Case("a-file-of-another", damage(lambda state, _: state.with_name("state_99999999999.pt").touch()), kept(2)),
)


@STATES
@pytest.mark.timeout(60)
def test_states(tmp_path, case):
    judge(case, tmp_path, lambda path: TrainingStates(path).load())


def test_when_no_state_is_whole_there_is_none(tmp_path):
    damage(lambda state, path: [turn(f) for f in state.parent.glob("*.pt")])(tmp_path / "resume")
    assert TrainingStates(tmp_path / "resume").load() is None


# -------------------------------------------------------------------------------------------- metrics and arrays
def spoil(name, content):
    """A finished run's folder with one file replaced: bytes, or a function of what was there."""

    def make(path):
        make_run(path, np.linspace(0.2, 0.8, 6), pictures=name.endswith(".png"))
        target = path / name
        if callable(content):
            content(target)
        else:
            target.write_bytes(content)

    return make


def change(*keys, to):
    """``metrics.json`` with one value replaced."""

    def make(path):
        metrics = json.loads(path.read_text())
        node = metrics
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to
        path.write_text(json.dumps(metrics))

    return spoil("metrics.json", make)


def arrays(**columns):
    good = {"path": np.array(["a"] * 6), "identity": np.array(["a"] * 6), "average_precision": np.ones(6)}
    return spoil("queries.npz", lambda path: np.savez(path, **(good | columns)))


def member(content, name="path.npy"):
    """``queries.npz`` with one member of any content."""

    def make(path):
        with zipfile.ZipFile(path) as old:
            members = {n: old.read(n) for n in old.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for n, c in (members | {name: content}).items():
                new.writestr(n, c)

    return spoil("queries.npz", make)


def npy(shape, kind="<f4", body=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


def pickled_array(path):
    np.savez(path, path=np.array([Hostile()] * 6, object), identity=np.ones(6), average_precision=np.ones(6))


def laughs(path):
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}}}" for i in range(1, 40)]
    path.write_text("\n".join(lines))


NO_RUN = "not the folder of a finished run"
NO_QUERIES = "not the queries of a run"

RUNS = cases(
    Case("good", spoil("x", b""), lambda run: run.result["queries"] == 6),
    Case("metrics-empty", spoil("metrics.json", b""), NO_RUN),
    Case("metrics-list", spoil("metrics.json", b"[]"), NO_RUN),
    Case("metrics-deep", spoil("metrics.json", b"[" * 100_000), NO_RUN),
    Case("metrics-binary", spoil("metrics.json", bytes(range(256))), NO_RUN),
    Case("metrics-pipe", spoil("metrics.json", lambda path: (path.unlink(), os.mkfifo(path))), NO_RUN),
    Case("metrics-device", spoil("metrics.json", lambda path: (path.unlink(), path.symlink_to("/dev/zero"))), NO_RUN),
    Case(
        "metrics-text-for-number", change("results", "trained", "mAP", to="<script>"), f"{NO_RUN} .*mAP is '<script>'"
    ),
    Case("metrics-endless-number", change("results", "trained", "mAP", to=10**400), NO_RUN),
    Case("metrics-not-a-number", change("results", "trained", "mAP", to=float("nan")), NO_RUN),
    Case("metrics-results-list", change("results", to=[1]), NO_RUN),
    Case("metrics-row-null", change("results", "trained", to=None), NO_RUN),
    Case("metrics-error-rate", change("results", "trained", "EER", to="x"), f"{NO_RUN} .*EER is 'x'"),
    Case("metrics-error-rate-null", change("results", "trained", "EER", to=None), NO_RUN),
    Case("metrics-parameters", change("parameters_trained", to=[1]), f"{NO_RUN} .*parameters_trained"),
    Case("metrics-protocol", change("results", "trained", "protocol", to=[1]), NO_RUN),
    Case("metrics-no-result", change("results", to={}), f"{NO_RUN} .*no finished evaluation"),
    Case("metrics-environment", change("environment", to="x"), NO_RUN),
    Case("metrics-splits", change("data", "splits", to={"query": {"images": "9"}}), NO_RUN),
    Case("config-order", spoil("config.yml", b"a: !!python/object/apply:os.mkdir [canary]\n"), NO_RUN),
    Case("config-laughs", spoil("config.yml", laughs), f"{NO_RUN} .*alias"),
    Case("config-list", spoil("config.yml", b"[1]"), NO_RUN),
    Case("config-gone", spoil("config.yml", lambda path: path.unlink()), NO_RUN),
    Case("queries-pickled", spoil("queries.npz", pickled_array), NO_QUERIES),
    Case("queries-object-type", member(npy((6,), "|O", b"cos\nmkdir\n.")), NO_QUERIES),
    Case("queries-huge-shape", member(npy((1 << 45,), "<U4")), NO_QUERIES),
    Case("queries-overflow", member(npy((1 << 62, 1 << 62), "<f8"), "average_precision.npy"), NO_QUERIES),
    Case("queries-negative", member(npy((-6,), "<U1")), NO_QUERIES),
    Case("queries-bomb", member(bytes((1 << 20) + 1)), f"{NO_QUERIES} .*more than 1 MiB"),
    Case("queries-no-array", member(b"hello"), NO_QUERIES),
    Case("queries-header-code", member(npy((6,)).replace(b"'<f4'", b"exit()")), NO_QUERIES),
    Case("queries-numbers-for-names", arrays(path=np.ones(6)), NO_QUERIES),
    Case("queries-whole-numbers", arrays(average_precision=np.ones(6, int)), NO_QUERIES),
    Case("queries-lengths", arrays(identity=np.array(["a"])), NO_QUERIES),
    Case(
        "queries-table",
        arrays(**{n: np.array([["a"]]) for n in ("path", "identity")}, average_precision=np.ones((1, 1))),
        NO_QUERIES,
    ),
    Case("queries-cut", spoil("queries.npz", lambda path: path.write_bytes(path.read_bytes()[:-30])), NO_QUERIES),
    Case("queries-text", spoil("queries.npz", b"hello"), NO_QUERIES),
    Case("queries-single-array", spoil("queries.npz", lambda p: p.write_bytes(npy((2,), body=bytes(8)))), NO_QUERIES),
    Case("queries-gone", spoil("queries.npz", lambda path: path.unlink()), lambda run: run.queries() is None),
    Case(
        "picture-postscript",
        spoil("ranking.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "cannot be shown",
    ),
    Case("picture-jpeg", spoil("ranking.png", b"\xff\xd8\xff\xe0" + bytes(100)), "cannot be shown"),
    Case("picture-empty", spoil("pictures/cmc.png", b""), "cannot be shown"),
    Case("picture-link", spoil("ranking.png", lambda p: (p.unlink(), p.symlink_to("/etc/passwd"))), "cannot be shown"),
    Case("picture-cut", spoil("ranking.png", lambda p: p.write_bytes(p.read_bytes()[:-5000])), "cannot be shown"),
)


@RUNS
@pytest.mark.timeout(60)
def test_runs(tmp_path, case, monkeypatch):
    """The report reads each damaged file; the comparison of runs reads the damaged queries, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder, "LARGEST_QUERIES", 1 << 20)

    def read(path):
        run = read_run(path)
        run.queries()
        write_report(path)
        return run

    judge(case, tmp_path, read)


def test_texts_of_a_run_are_no_html(tmp_path):
    change("results", "trained", "weights", to="<script>alert(1)</script>")(tmp_path / "run")
    assert "<script>alert" not in write_report(tmp_path / "run").read_text()


# ------------------------------------------------------------------------------------------ features being extracted
class Fixed:
    """An embedder that reads no image."""

    reading = Reading()

    def batches(self, paths, done):
        yield np.ones((len(paths), 3), np.float32)


def features(content, state=b'{"key": "KEY", "done": 2}'):
    """An output folder of ``processor.extract`` with any ``features.npy``; with the key of the coming request."""

    def make(path):
        images = path.parent / "images"
        images.mkdir()
        for name in "ab":
            (images / f"{name}.jpg").touch()
        extract(Fixed(), images, path, "source")
        key = json.loads((path / "extract.json").read_text())["key"]
        (path / "features.npy").write_bytes(content)
        (path / "extract.json").write_bytes(state.replace(b"KEY", key.encode()))

    return make


def ones(found):
    return found.tolist() == [[1, 1, 1]] * 2


FEATURES = cases(
    Case("features-object", features(npy((2,), "|O", b"cos\nmkdir\n.")), ones),
    Case("features-huge", features(npy((2, 1 << 50))), ones),
    Case("features-doubles", features(npy((2, 3), "<f8", bytes(48))), ones),
    Case("features-short", features(npy((2, 3), "<f4", bytes(4))), ones),
    Case("features-row", features(npy((2,), "<f4", bytes(8))), ones),
    Case("features-zip", features(b"PK\x05\x06" + bytes(18)), ones),
    Case("features-empty", features(b""), ones),
    Case("features-too-many-done", features(npy((2, 3), "<f4", bytes(24)), b'{"key": "KEY", "done": 9}'), ones),
    Case("features-done-text", features(npy((2, 3), "<f4", bytes(24)), b'{"key": "KEY", "done": "x"}'), ones),
    Case("features-state-deep", features(npy((2, 3), "<f4", bytes(24)), b"[" * 100_000), ones),
)


@FEATURES
@pytest.mark.timeout(60)
def test_features_that_no_extraction_wrote_are_computed_again(tmp_path, case):
    judge(case, tmp_path, lambda path: extract(Fixed(), tmp_path / "images", path, "source")[0])


# -------------------------------------------------------------------------------------------------- the vocabulary
GOOD = simple_tokenizer.VOCABULARY_FILE.read_bytes()

VOCABULARIES = cases(
    Case("good.gz", GOOD, lambda found: len(found.spelled) == 49408),
    Case("cut.gz", GOOD[:-100], "is not CLIP's vocabulary"),
    Case("bit.gz", GOOD[:5000] + bytes([GOOD[5000] ^ 1]) + GOOD[5001:], "is not CLIP's vocabulary"),
    Case("bomb.gz", lambda path: path.write_bytes(gzip.compress(bytes(50_000_000))), "is not CLIP's vocabulary"),
    Case("text.gz", b"hello", "is not CLIP's vocabulary"),
    Case("other.gz", lambda path: path.write_bytes(gzip.compress(b"v\na b\n")), "is not CLIP's vocabulary"),
    Case("pipe.gz", os.mkfifo, "is not CLIP's vocabulary"),
    Case("gone.gz", lambda path: None, "is not CLIP's vocabulary"),
)


@VOCABULARIES
@pytest.mark.timeout(60)
def test_vocabularies(tmp_path, case, monkeypatch):
    def read(path):
        monkeypatch.setattr(simple_tokenizer, "VOCABULARY_FILE", path)
        return simple_tokenizer._vocabulary.__wrapped__()

    judge(case, tmp_path, read)
