"""Hostile configurations: YAML with code, exponential growth, loops or wrong types."""

import os

import pytest

from configs import get_defaults, load_config
from tests.bad_inputs.kit import CANARY, Case, cases, judge

UNREADABLE = "not a readable YAML file"


def order(tag):
    return lambda path: path.write_text(f"OUTPUT_DIR: {tag.replace('CANARY', str(path.parent / CANARY))}\n")


def laughs(path):
    """The billion-laughs file: each name expands to ten of the one before."""
    lines = ["a0: &a0 [ha, ha]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))]
    path.write_text("\n".join(lines))


def circle(path):
    path.write_text("_BASE_: other.yml\n")
    path.with_name("other.yml").write_text(f"_BASE_: {path.name}\n")


def chain(path):
    """Files that name each other 40 times in a row."""
    for i in range(40):
        path.with_name(f"c{i}.yml").write_text(f"_BASE_: c{i + 1}.yml\n")
    path.write_text("_BASE_: c0.yml\n")


def seed(number):
    return lambda found: number == found[0].SOLVER.SEED


CONFIGURATIONS = cases(
    Case("apply.yml", order("!!python/object/apply:os.mkdir [CANARY]"), UNREADABLE),
    Case("new.yml", order("!!python/object/new:os.mkdir [CANARY]"), UNREADABLE),
    Case("system.yml", order('!!python/object/apply:os.system ["mkdir CANARY"]'), UNREADABLE),
    Case("name.yml", order("!!python/name:os.mkdir"), UNREADABLE),
    Case("module.yml", order("!!python/module:os"), UNREADABLE),
    Case("tuple.yml", order("!!python/tuple [1, 2]"), UNREADABLE),
    Case("own-tag.yml", order("!hand {a: 1}"), UNREADABLE),
    Case("set.yml", b"SOLVER: {STAGES: !!set {1, 2}}\n", "SOLVER.STAGES"),
    Case("laughs.yml", laughs, r"the alias \*a0 is not followed"),
    Case("self.yml", b"MODEL: &a\n  NAME: *a\n", "the alias"),
    Case("merge-key.yml", b"a: &x {SEED: 1}\nSOLVER:\n  <<: *x\n", "the alias"),
    Case("deep.yml", b"{a: " * 50_000 + b"1" + b"}" * 50_000, UNREADABLE),
    Case("deep-lists.yml", b"[" * 50_000, UNREADABLE),
    Case("groups.yml", b"".join(b" " * i + b"a:\n" for i in range(90)), "more than 6 groups"),
    Case("null.yml", b"OUTPUT_DIR: a\0b\n", UNREADABLE),
    Case("escaped-null.yml", b'OUTPUT_DIR: "a\\0b"\n', "a name cannot contain a null character"),
    Case("utf16.yml", "SOLVER: {SEED: 7}\n".encode("utf-16"), "is not UTF-8 text"),
    Case("utf32.yml", "SOLVER: {SEED: 7}\n".encode("utf-32"), "is not UTF-8 text"),
    Case("latin1.yml", "OUTPUT_DIR: Hände\n".encode("latin-1"), "is not UTF-8 text"),
    Case("mark.yml", "SOLVER: {SEED: 7}\n".encode("utf-8-sig"), seed(7)),
    Case("windows.yml", b"SOLVER:\r\n  SEED: 7\r\n", seed(7)),
    Case("tabs.yml", b"SOLVER:\n\tSEED: 7\n", UNREADABLE),
    Case("twice.yml", b"SOLVER: {SEED: 7}\nSOLVER: {SEED: 8}\n", "SOLVER stands on lines 1 and 2"),
    Case("two-documents.yml", b"SOLVER: {SEED: 7}\n---\nSOLVER: {SEED: 8}\n", UNREADABLE),
    Case("bell.yml", b"OUTPUT_DIR: \x07\n", UNREADABLE),
    Case("list.yml", b"[SOLVER, 1]\n", "expected a mapping"),
    Case("number.yml", b"42\n", "expected a mapping"),
    Case("key-list.yml", b"? [1, 2]\n: 3\n", UNREADABLE),
    Case("endless-number.yml", b"SOLVER: {SEED: " + b"9" * 100_000 + b"}\n", UNREADABLE),
    Case("not-a-number.yml", b"SOLVER: {MARGIN: .nan}\n", "finite"),
    Case("infinite.yml", b"SOLVER: {MARGIN: .inf}\n", "finite"),
    Case("sexagesimal.yml", b"SOLVER: {SEED: 1:30}\n", "SOLVER.SEED = 1:30: YAML takes this for 90"),
    Case("python-literal.yml", b"SOLVER: {STAGES: \"__import__('os').system('true')\"}\n", "SOLVER.STAGES"),
    Case("huge-literal.yml", b"SOLVER: {SEED: '" + b"9**" * 9000 + b"9'}\n", "SOLVER.SEED"),
    Case("huge.yml", b"# " + b"x" * (1 << 20), "larger than 1 MiB"),
    Case("binary.yml", bytes(range(256)) * 4, "is not UTF-8 text"),
    Case("empty.yml", b"", lambda found: found[0] == get_defaults()),
    Case("circle.yml", circle, "_BASE_ leads back to this file"),
    Case("own-base.yml", b"_BASE_: own-base.yml\n", "_BASE_ leads back to this file"),
    Case("chain.yml", chain, "c31.yml: more than 32 files that name each other as _BASE_"),
    Case("base-passwd.yml", b"_BASE_: /etc/passwd\n", "configurations are YAML files"),
    Case("base-folder.yml", b"_BASE_: ..\n", "configurations are YAML files"),
    Case("folder.yml", lambda path: path.mkdir(), "it is a folder"),
    Case("pipe.yml", os.mkfifo, "it is not a regular file"),
    Case("device.yml", lambda path: path.symlink_to("/dev/zero"), "it is not a regular file"),
    Case("loop.yml", lambda path: path.symlink_to(path), "no such configuration file"),
    Case("program.py", b"import os\nos.mkdir(os.environ['REID_CANARY'])\n", "found .py suffix"),
)


NAMES_ANOTHER = ("chain.yml", "base-passwd.yml", "base-folder.yml", "circle.yml")
NAMES_THE_KEY = ("escaped-null.yml", "not-a-number.yml", "infinite.yml")


@CONFIGURATIONS
@pytest.mark.timeout(60)
def test_configurations(tmp_path, case):
    judge(case, tmp_path, load_config, named=case.name not in (*NAMES_ANOTHER, *NAMES_THE_KEY))
