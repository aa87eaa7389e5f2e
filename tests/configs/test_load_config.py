"""Reading configurations: files, overrides, and everything a user may get wrong in them."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from configs import get_defaults, load_config
from configs.published import EQUIVALENT
from configs.ranges import CHOICES
from tests.fuzzing import fuzz
from utils.errors import ReIDError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs").glob("*/*.yml"))


def message(*overrides, file=None):
    """The text of the ReIDError that this configuration must give."""
    with pytest.raises(ReIDError) as caught:
        load_config(file, overrides)
    return str(caught.value)


def written(folder, text, name="mine.yml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def leaves(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_defaults_are_a_valid_configuration():
    cfg, notes = load_config()
    assert cfg == get_defaults() and cfg.is_frozen() and not notes


def test_defaults_are_not_shared():
    get_defaults().SOLVER.STAGE1.STEPS.append(3)
    load_config(None, ["SOLVER.SEED", "5"])
    assert get_defaults().SOLVER.STAGE1.STEPS == [40, 70] and get_defaults().SOLVER.SEED == 1234


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("SOLVER.SEED", "7", 7),
        ("SOLVER.STAGE2.BASE_LR", "1e-4", 1e-4),
        ("SOLVER.STAGE2.BIAS_LR_FACTOR", "2", 2.0),
        ("INPUT.SIZE_TRAIN", "[256, 128]", [256, 128]),
        ("MODEL.STRIDE_SIZE", "(12, 12)", [12, 12]),
        ("INPUT.PIXEL_MEAN", "[0, 0.5, 1]", [0.0, 0.5, 1.0]),
        ("TEST.FLIP", "True", True),
        ("DATASETS.NAMES", "('market1501')", "market1501"),
        ("DATASETS.NAMES", "market1501", "market1501"),
        ("MODEL.DEVICE_ID", "0", "0"),
        ("MODEL.PROMPT", "A photo of a X X hand.", "A photo of a X X hand."),
        ("OUTPUT_DIR", "with blank/(and brackets)", "with blank/(and brackets)"),
    ],
)
def test_overrides(key, text, value):
    found = dict(leaves(load_config(None, [key, text])[0]))[key]
    assert found == value and type(found) is type(value)


def test_override_beats_file_beats_defaults(tmp_path):
    file = written(tmp_path, "SOLVER: {SEED: 5, MARGIN: 0.7}\n")
    cfg, _ = load_config(file, ["SOLVER.SEED", "6", "SOLVER.SEED", "8"])
    assert (cfg.SOLVER.SEED, cfg.SOLVER.MARGIN, cfg.TEST.RERANK_K1) == (8, 0.7, "auto")


def test_a_tab_in_a_yaml_file_is_named(tmp_path):
    file = tmp_path / "c.yml"
    file.write_text("MODEL:\n\tNAME: RN50\n")
    assert "by spaces, not by tabs" in message(file=file)


def test_odd_number_of_words():
    assert "pairs KEY VALUE" in message("SOLVER.SEED", "1", "OUTPUT_DIR")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.NAMES", "MODEL.NAME"),
        ("SOLVER.STAGE1.BASELR", "SOLVER.STAGE1.BASE_LR"),
        ("SOLVER.STAGE2.MAX_EPOCH", "SOLVER.STAGE2.MAX_EPOCHS"),
        ("TEST.RERANKING", "TEST.RE_RANKING"),
        ("OUTPUTDIR", "OUTPUT_DIR"),
        ("DATASETS.SYNTHETIC.TRAIN_ID", "DATASETS.SYNTHETIC.TRAIN_IDS"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, key, nearest):
    said = message(key, "1")
    assert f"unknown key {key}." in said and f"Did you mean {nearest}?" in said
    for value in (1, None, {}):
        tree = value
        for part in reversed(key.split(".")):
            tree = {part: tree}
        file = written(tmp_path, yaml.safe_dump(tree))
        said = message(file=file)
        assert str(file) in said and f"Did you mean {nearest}?" in said


def test_all_wrong_keys_are_in_one_message(tmp_path):
    file = written(tmp_path, "DATASET: {NAMES: hand}\nSOLVER: {STAGE2: {MAX_EPOCH: 3}, SEED: x, PRECISION: fp32}\n")
    assert message(file=file).startswith(
        f"{file}: unknown key DATASET.NAMES. Did you mean DATASETS.NAMES? "
        "Also: unknown key SOLVER.STAGE2.MAX_EPOCH. Did you mean SOLVER.STAGE2.MAX_EPOCHS? "
        "Also: SOLVER.SEED = 'x' is of type str; expected int"
    )
    said = message(*(word for i in range(9) for word in (f"QQQQ{i}", "1")))
    assert said.count("unknown key") == 5 and said.endswith(" And 4 more.")


def test_the_message_of_an_unknown_key_names_the_page():
    assert "configs/defaults.py" in message("QQQQ", "1")
    assert "unknown key SOLVER.SEED.X" in message("SOLVER.SEED.X", "1")


@pytest.mark.parametrize(
    ("key", "text", "found", "expected"),
    [
        ("SOLVER.SEED", "1.5", "float", "int"),
        ("SOLVER.SEED", "many", "str", "int"),
        ("SOLVER.SEED", "True", "bool", "int"),
        ("SOLVER.MARGIN", "[1]", "list", "float"),
        ("TEST.FLIP", "1", "int", "bool"),
        ("INPUT.SIZE_TRAIN", "256", "int", "list"),
        ("INPUT.SIZE_TRAIN", "[256, 'wide']", "str", "int"),
        ("INPUT.SIZE_TRAIN", "[256, 128.5]", "float", "int"),
        ("SOLVER.STAGES", "{1: 2}", "dict", "list"),
        ("SOLVER.STAGES", "{[1]: 2}", "str", "list"),
    ],
)
def test_wrong_types(key, text, found, expected):
    said = message(key, text)
    assert said.startswith(f"command line: {key}") and f"of type {found}; expected {expected}" in said


def test_the_message_of_a_yaml_boolean_names_the_quotes(tmp_path):
    said = message(file=written(tmp_path, "MODEL: {IF_LABELSMOOTH: off}\n"))
    assert "MODEL.IF_LABELSMOOTH = False" in said and "quotes" in said


@pytest.mark.parametrize(
    "text", ["010", "12:30", "2024_01", "1.50", "1e3", "0x10", "007", "1_000.5", "2020-01-01", ".5", "3", "-0"]
)
def test_text_is_read_as_written(tmp_path, text):
    """YAML 1.1 reads a number with a leading 0 as octal, one with a colon in base 60, and a date as a date."""
    cfg, _ = load_config(written(tmp_path, f"OUTPUT_DIR: {text}\nDATASETS: {{ROOT_DIR: {text}}}\n"))
    assert (text, text) == (cfg.OUTPUT_DIR, cfg.DATASETS.ROOT_DIR)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CHECKPOINT_MINUTES: 1:30", "CHECKPOINT_MINUTES = 1:30 90"),
        ("SOLVER: {SEED: 010}", "SOLVER.SEED = 010 8"),
        ("SOLVER: {STAGE2: {MAX_EPOCHS: 060}}", "SOLVER.STAGE2.MAX_EPOCHS = 060 48"),
        ("SOLVER: {STAGE2: {STEPS: [20, 040]}}", "SOLVER.STAGE2.STEPS[1] = 040 32"),
        ("SOLVER: {MARGIN: 1:30.5}", "SOLVER.MARGIN = 1:30.5 90.5"),
        ("SOLVER:\n  SEED: ~", "SOLVER.SEED = None nothing"),
        ("OUTPUT_DIR: ~", "OUTPUT_DIR = None quotes"),
    ],
)
def test_numbers_that_yaml_reads_otherwise_are_refused(tmp_path, text, words):
    said = message(file=written(tmp_path, text))
    for word in words.split():
        assert word in said, f"{word!r} is not in {said!r}"


@pytest.mark.parametrize(("text", "seed"), [("0x10", 16), ("1_000", 1000), ("+5", 5), ("'7'", 7), ("0b11", 3)])
def test_other_spellings_of_numbers(tmp_path, text, seed):
    assert seed == load_config(written(tmp_path, f"SOLVER: {{SEED: {text}}}\n"))[0].SOLVER.SEED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SOLVER: {SEED: 7}\nMODEL: {NAME: RN50}\nSOLVER: {MARGIN: 0.1}\n", "SOLVER stands on lines 1 and 3"),
        ("SOLVER:\n  SEED: 7\n  SEED: 7\n", "SEED stands on lines 2 and 3"),
        ("SOLVER.SEED: 7\nSOLVER: {SEED: 8}\n", "SOLVER.SEED has two values in this file"),
        ("SOLVER: {STAGE1.BASE_LR: 1, STAGE1: {BASE_LR: 2}}\n", "SOLVER.STAGE1.BASE_LR has two values"),
        ("_BASE_: a.yml\n_BASE_: b.yml\n", "_BASE_ stands on lines 1 and 2"),
    ],
)
def test_a_key_stands_once_in_a_file(tmp_path, text, words):
    assert words in message(file=written(tmp_path, text))


def test_dotted_and_nested_keys_of_one_group(tmp_path):
    cfg, _ = load_config(written(tmp_path, "SOLVER.SEED: 7\nSOLVER: {MARGIN: 0.5}\nSOLVER.STAGE1.GAMMA: 0.2\n"))
    assert (cfg.SOLVER.SEED, cfg.SOLVER.MARGIN, cfg.SOLVER.STAGE1.GAMMA) == (7, 0.5, 0.2)
    file = written(tmp_path, f"{{? {'a.' * 100_000}a : 1}}\n")
    assert "unknown key a.a." in message(file=file)


@pytest.mark.parametrize("base", ["SOLVER.SEED: 5", "SOLVER: {SEED: 5}"])
@pytest.mark.parametrize("top", ["SOLVER.SEED: 6", "SOLVER: {SEED: 6}"])
def test_the_file_beats_its_base_however_keys_are_written(tmp_path, base, top):
    written(tmp_path, f"{base}\nTEST.EVAL: True\n", "base.yml")
    cfg, notes = load_config(written(tmp_path, f"_BASE_: base.yml\n{top}\n"))
    assert cfg.SOLVER.SEED == 6 and "TEST.EVAL has no effect" in notes[0]


def test_no_value_over_a_base_is_refused_as_without(tmp_path):
    written(tmp_path, "MODEL: {STAGE1_WEIGHT: a.pth}\nSOLVER: {STAGES: [2]}\n", "base.yml")
    said = message(file=written(tmp_path, "_BASE_: base.yml\nMODEL:\n  STAGE1_WEIGHT:\n"))
    assert "MODEL.STAGE1_WEIGHT = None" in said and "'' is empty" in said
    cfg, _ = load_config(written(tmp_path, "_BASE_: base.yml\nMODEL:\n"))
    assert cfg.MODEL.STAGE1_WEIGHT == "a.pth", "an empty group changes nothing"


def test_home_folders(tmp_path, monkeypatch):
    """No shell expands ``~`` in YAML or in quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "OUTPUT_DIR: ~/out\nMODEL: {PRETRAIN_PATH: ~/a.pt}\nRESUME: ~/old\n", "base.yml")
    file = written(tmp_path, "_BASE_: ~/base.yml\n")
    rest = ["TEST.WEIGHT", "a~b/~/c.pth", "DATASETS.ROOT_DIR"]
    cfg, _ = load_config("~/mine.yml", [*rest, "~"])
    assert [f"{tmp_path}/{n}" for n in ("out", "a.pt", "old")] == [cfg.OUTPUT_DIR, cfg.MODEL.PRETRAIN_PATH, cfg.RESUME]
    assert cfg.TEST.WEIGHT == "a~b/~/c.pth" and cfg == load_config(file, [*rest, str(tmp_path)])[0]


def test_windows_line_endings_of_a_script(tmp_path):
    said = message("OUTPUT_DIR", "output/mine\r")
    assert "OUTPUT_DIR = 'output/mine\\r'" in said and "carriage return" in said and "dos2unix" in said
    assert "carriage return" in message(file=f"{written(tmp_path, '')}\r")
    assert load_config(None, ["SOLVER.SEED", "5\r"])[0].SOLVER.SEED == 5


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("TEST.DISTANCE_METRIC", "Here it is TEST.METRIC."),
        ("RE_RANKING.K1", "Here it is TEST.RERANK_K1."),
        ("RE_RANKING.K2", "Here it is TEST.RERANK_K2."),
        ("RE_RANKING.LAMBDA_VALUE", "Here it is TEST.RERANK_LAMBDA."),
        ("SOLVER.BASE_LR", "Did you mean SOLVER.STAGE1.BASE_LR or SOLVER.STAGE2.BASE_LR?"),
        ("SOLVER.CENTER_LR", "Did you mean SOLVER.STAGE1.CENTER_LR or SOLVER.STAGE2.CENTER_LR?"),
    ],
)
def test_keys_of_forks_name_their_equivalent(tmp_path, key, ours):
    assert message(key, "1") == f"command line: unknown key {key}. {ours}"
    if key != "SOLVER.BASE_LR":  # in a file it is that of a published baseline
        assert f"unknown key {key}. {ours}" in message(file=written(tmp_path, f"{key}: 1\n"))


def test_every_equivalent_is_a_key():
    known = dict(leaves(get_defaults()))
    assert not [key for key in EQUIVALENT if key in known] and set(EQUIVALENT.values()) <= known.keys()


def test_a_group_takes_no_value(tmp_path):
    for text in ("MODEL: [1]\nSOLVER: {BASE_LR: 0.1}\n", "MODEL: ViT-B-16\n"):
        assert "MODEL is a group of keys (METHOD, " in message(file=written(tmp_path, text))
    assert "SOLVER.STAGE1 = None" not in message("SOLVER.STAGE1", "3")


def test_a_key_without_value(tmp_path):
    assert "SOLVER.SEED = None" in message(file=written(tmp_path, "SOLVER:\n  SEED:\n"))


@pytest.mark.parametrize("key", sorted(CHOICES))
def test_choices_are_listed(key):
    default = dict(leaves(get_defaults()))[key]
    assert default in CHOICES[key]
    wrong = {str: "nonsense", int: "77", list: "[7]"}[type(default)]
    said = message(key, wrong)
    assert key in said and wrong.strip("[]") in said and all(str(c) in said for c in CHOICES[key])


def test_choices_name_the_nearest():
    assert "Did you mean arcface?" in message("MODEL.ID_LOSS_TYPE", "arc_face")
    assert "Did you mean softmax_triplet?" in message("DATALOADER.SAMPLER", "softmax-triplet")


BASELINE = ("MODEL.METHOD", "baseline", "SOLVER.STAGES", "[2]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("INPUT.SIZE_TEST|[224, 224]", "INPUT.SIZE_TEST = [224, 224] INPUT.SIZE_TRAIN = [256, 128] same value"),
        ("DATASETS.NAMES|", "DATASETS.NAMES empty"),
        ("OUTPUT_DIR|", "OUTPUT_DIR empty"),
        ("SOLVER.STAGE2.IMS_PER_BATCH|1", "SOLVER.STAGE2.IMS_PER_BATCH = 1 at least 2"),
        (
            "DATALOADER.SAMPLER|triplet|SOLVER.STAGE2.IMS_PER_BATCH|30",
            "SOLVER.STAGE2.IMS_PER_BATCH = 30 DATALOADER.NUM_INSTANCE = 4 nearest 32",
        ),
        (
            "DATALOADER.SAMPLER|softmax_triplet|SOLVER.STAGE2.IMS_PER_BATCH|8|DATALOADER.NUM_INSTANCE|8",
            "SOLVER.STAGE2.IMS_PER_BATCH = 8 NUM_INSTANCE 16",
        ),
        ("SOLVER.STAGES|[2, 1]", "SOLVER.STAGES = [2, 1] [1, 2]"),
        ("MODEL.NAME|RN50|MODEL.SIE_CAMERA|True", "MODEL.SIE_CAMERA MODEL.NAME = RN50 ViT"),
        ("MODEL.NAME|RN50|MODEL.SIE_VIEW|True", "SIE_VIEW MODEL.NAME = RN50 ViT"),
        (
            "MODEL.ID_LOSS_TYPE|arcface|DATALOADER.SAMPLER|triplet",
            "MODEL.ID_LOSS_TYPE = arcface DATALOADER.SAMPLER = triplet softmax_triplet",
        ),
        ("TEST.RERANK_K1|50|TEST.RERANK_K2|60", "TEST.RERANK_K2 = 60 TEST.RERANK_K1 = 50"),
        ("TEST.RERANK_K2|6", "TEST.RERANK_K1 = auto TEST.RERANK_K2 = 6"),
        ("TEST.RERANK_K1|0|TEST.RERANK_K2|0", "TEST.RERANK_K1 = '0'"),
        ("TEST.DIST_MAT|config.yml", "TEST.DIST_MAT = 'config.yml' .npy"),
        ("TEST.RE_RANKING|True|TEST.METRIC|cosine", "TEST.RE_RANKING TEST.METRIC = cosine euclidean"),
        ("SOLVER.SEED|-1", "SOLVER.SEED = -1 negative"),
        ("SOLVER.SEED|4294967296", "SOLVER.SEED = 4294967296 4294967295"),
        ("SOLVER.SEED|" + "9" * 400, "SOLVER.SEED 64 bits"),
        ("SOLVER.MARGIN|" + "9" * 400, "SOLVER.MARGIN 64 bits"),
        ("SOLVER.MARGIN|1e999", "SOLVER.MARGIN = inf finite"),
        ("INPUT.FIT_TRAIN|letterbox", "INPUT.FIT_TEST = stretch Set both to letterbox"),
        (
            "INPUT.FIT_TRAIN|letterbox|INPUT.FIT_TEST|letterbox|INPUT.TRANSLATION|0.5",
            "INPUT.TRANSLATION = 0.5 stretches",
        ),
        ("INPUT.COLOR_RANGES|[0.1, 0.1, 0.1, 0.6]", "INPUT.COLOR_RANGES = [0.1, 0.1, 0.1, 0.6] hue at most 0.5"),
        ("INPUT.COLOR_RANGES|[0.1, 0, 0, 0]|INPUT.COLOR_JITTER|0.1", "INPUT.COLOR_JITTER = 0.1 one of them"),
        ("INPUT.PROB|1.5", "INPUT.PROB = 1.5 between 0 and 1"),
        ("INPUT.PIXEL_STD|[1, 0, 1]", "INPUT.PIXEL_STD = [1.0, 0.0, 1.0] greater than 0"),
        ("INPUT.PIXEL_MEAN|[1, 0]", "INPUT.PIXEL_MEAN = [1.0, 0.0] 3 numbers, found 2"),
        ("INPUT.SIZE_TRAIN|[0, 128]", "INPUT.SIZE_TRAIN = [0, 128] at least 1"),
        ("SOLVER.STAGE1.MAX_EPOCHS|0", "SOLVER.STAGE1.MAX_EPOCHS = 0 at least 1"),
        ("SOLVER.STAGE2.BASE_LR|0", "SOLVER.STAGE2.BASE_LR = 0.0 greater than 0"),
        (
            "SOLVER.STAGE2.SCHEDULER|cosine|SOLVER.STAGE2.BASE_LR|5e-6",
            "SOLVER.STAGE2.LR_MIN = 1.6e-05 SOLVER.STAGE2.WARMUP_LR_INIT = 1e-05 BASE_LR = 5e-06 below",
        ),
        ("SOLVER.STAGE1.WARMUP_LR_INIT|0.01", "SOLVER.STAGE1.WARMUP_LR_INIT = 0.01 BASE_LR = 0.0003"),
        ("SOLVER.STAGE2.STEPS|[-1]", "SOLVER.STAGE2.STEPS = [-1] negative"),
        ("DATALOADER.NUM_WORKERS|-1", "DATALOADER.NUM_WORKERS = -1 negative"),
        ("OUTPUT_DIR|a\0b", "OUTPUT_DIR null"),
    ],
)
def test_impossible_values_and_combinations(overrides, words):
    said = message(*overrides.split("|"))
    for word in words.split():
        assert word in said, f"{word!r} is not in {said!r}"


@pytest.mark.parametrize(
    "overrides",
    [
        "SOLVER.STAGE2.STEPS|[]",
        "SOLVER.STAGE1.WARMUP_LR_INIT|0.01|SOLVER.STAGE1.WARMUP_EPOCHS|0",
        "SOLVER.STAGE2.WARMUP_LR_INIT|1.0|SOLVER.STAGE2.LR_MIN|1.0",
        "SOLVER.STAGE1.WARMUP_LR_INIT|0.01|SOLVER.STAGES|[2]|MODEL.METHOD|baseline",
        "SOLVER.STAGE2.IMS_PER_BATCH|30",
        "SOLVER.STAGE2.IMS_PER_BATCH|8|DATALOADER.SAMPLER|triplet",
        "MODEL.SIE_COE|-1",
    ],
)
def test_neighbours_of_the_impossible_are_possible(overrides):
    load_config(None, overrides.split("|"))


def test_base_is_relative_to_the_file_and_overridden_leaf_by_leaf(tmp_path):
    (tmp_path / "deep").mkdir()
    written(tmp_path, "SOLVER: {SEED: 1, MARGIN: 0.5, STAGE1: {GAMMA: 0.2, MAX_EPOCHS: 7}}\n", "root.yml")
    written(tmp_path, "_BASE_: ../root.yml\nSOLVER: {SEED: 2, STAGE1: {GAMMA: 0.3}}\n", "deep/middle.yml")
    cfg, _ = load_config(written(tmp_path, "_BASE_: deep/middle.yml\nSOLVER: {SEED: 3}\nMODEL:\n", "top.yml"))
    assert (cfg.SOLVER.SEED, cfg.SOLVER.MARGIN) == (3, 0.5)
    assert (cfg.SOLVER.STAGE1.GAMMA, cfg.SOLVER.STAGE1.MAX_EPOCHS) == (0.3, 7)


def test_base_loops(tmp_path):
    one = written(tmp_path, "_BASE_: two.yml\n", "one.yml")
    written(tmp_path, f"_BASE_: ../{tmp_path.name}/one.yml\n", "two.yml")
    assert "_BASE_ leads back to this file" in message(file=one)
    assert "_BASE_ leads back" in message(file=written(tmp_path, "_BASE_: mine.yml\n"))


@pytest.mark.parametrize("base", ["[a.yml, b.yml]", "3", "True"])
def test_base_is_one_name(tmp_path, base):
    assert "_BASE_ must be the name of one YAML file" in message(file=written(tmp_path, f"_BASE_: {base}\n"))


def test_missing_files_name_their_neighbours(tmp_path):
    written(tmp_path, "", "vit_clipreid.yml")
    said = message(file=tmp_path / "vit_clipred.yml")
    assert "vit_clipred.yml: no such configuration file" in said and "vit_clipreid.yml" in said
    said = message(file=written(tmp_path, "_BASE_: gone.yml\n"))
    assert f"{tmp_path / 'gone.yml'}: no such" in said


def test_python_files_are_refused_unread(tmp_path):
    mark = tmp_path / "ran"
    file = written(tmp_path, f"open({str(mark)!r}, 'w')\n", "config.py")
    assert "found .py suffix" in message(file=file)
    assert "found .py suffix" in message(file=written(tmp_path, "_BASE_: config.py\n"))
    assert not mark.exists()


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.mkdir [{mark}]",
        "!!python/object/new:os.mkdir [{mark}]",
        "!!python/name:os.mkdir",
        "!!python/module:antigravity",
        "!!python/object:utils.console.progress.Meters {{}}",
    ],
)
def test_python_tags_are_refused_unrun(tmp_path, tag):
    mark = tmp_path / "ran"
    file = written(tmp_path, "OUTPUT_DIR: " + tag.format(mark=mark) + "\n")
    assert "not a readable YAML file" in message(file=file)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "MODEL: &a\n  X: *a\n",
        "&a\nMODEL: *a\n",
        "SOLVER: {STAGE1: {STEPS: &a [*a]}}\n",
        "{a: " * 90 + "1" + "}" * 90,
        "{a: " * 900 + "1" + "}" * 900,
        "[" * 500,
        "\n".join("  " * i + "a:" for i in range(90)),
        "[1, 2]",
        "just words",
        "3",
        "a: 1\n---\nb: 2\n",
        "? [1, 2]\n: 3\n",
        "~: 1\n",
        "1: {2: 3}\n",
        "'': 1\n",
        "MODEL: {<<: 3}\n",
        "OUTPUT_DIR: !!timestamp 2020-01-01\n",
        "OUTPUT_DIR: !!binary aGk=\n",
        "OUTPUT_DIR: !!timestamp soon\n",
        "SOLVER: {SEED: !!int ''}\n",
        "SOLVER: {MARGIN: !!float ''}\n",
        "TEST: {FLIP: !!bool perhaps}\n",
        "SOLVER: {SEED: " + "9" * 5000 + "}\n",
        "SOLVER: {STAGE1: {BASE_LR: " + "9" * 400 + "}}\n",
        "SOLVER: {STAGES: '{[1]: 2}'}\n",
        '_BASE_: "a\\0.yml"\n',
        "_BASE_: .\n",
        "\tMODEL: 1\n",
        "a: \x00\n",
    ],
)
def test_odd_yaml_is_a_user_error(tmp_path, text):
    file = written(tmp_path, text)
    assert str(tmp_path) in message(file=file)


@pytest.mark.parametrize("content", [bytes(range(256)), b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_binary_files(tmp_path, content):
    (tmp_path / "mine.yml").write_bytes(content)
    assert "mine.yml: is not UTF-8 text" in message(file=tmp_path / "mine.yml")


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "mine.yml").mkdir()
    assert "mine.yml: cannot be read (it is a folder)" in message(file=tmp_path / "mine.yml")


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_config(written(tmp_path, "# nothing\n"))[0] == get_defaults()


KEYS = sorted({part for key, _ in leaves(get_defaults()) for part in key.split(".")})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["(1,", "'a'", "[1, 2]", "{[]: 1}", "1e5", "__import__('os')", "a\0", "((" * 200, "-" * 300 + "1"]),
    st.dates(),
    st.binary(max_size=4),
)
NAMES = st.one_of(st.sampled_from([*KEYS, "_BASE_"]), st.text(max_size=4), st.integers(), st.none())
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
SIGNS = [*"-:[]{}?|>!%@`'\"#,1~\n\t ", "&a ", "*a", "<<: ", "\n  ", ": "]
PIECES = st.sampled_from([*KEYS, *SIGNS])
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(PIECES, max_size=30).map("".join),
    TREES.map(lambda tree: yaml.dump(tree, allow_unicode=True)),
    st.dictionaries(
        st.sampled_from(["MODEL", "INPUT", "DATASETS", "SOLVER", "TEST", "OUTPUT_DIR", "_BASE_"]), TREES
    ).map(yaml.dump),
)


@fuzz(60)
@given(TEXTS)
@example("SOLVER: {BASE_LR: 1}\nMODEL: ''")
def test_any_text_gives_a_configuration_or_a_user_error(tmp_path, text):
    file = written(tmp_path, text)
    try:
        cfg, _ = load_config(file)
    except ReIDError as error:
        assert str(error)
    else:
        assert cfg.is_frozen() and cfg.keys() == get_defaults().keys()


@fuzz(150)
@given(st.sampled_from([key for key, _ in leaves(get_defaults())]), SCALARS.map(str) | st.text())
def test_any_override_gives_a_configuration_or_a_user_error(key, text):
    types = {name: type(value) for name, value in leaves(get_defaults())}
    try:
        cfg, _ = load_config(None, [key, text])
    except ReIDError as error:
        assert key.split(".")[-1] in str(error)
    else:
        assert {name: type(value) for name, value in leaves(cfg)} == types


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_loads(recipe):
    cfg, notes = load_config(recipe)
    assert not notes, "our own recipes hold no retired keys"
    assert f"output/{recipe.parent.name}/{recipe.stem}" == cfg.OUTPUT_DIR


def test_a_dumped_configuration_is_itself(tmp_path):
    """Including text that YAML would take for something else."""
    odd = ["MODEL.PROMPT", "no: X X 'X' # hand", "OUTPUT_DIR", "1e5", "DATASETS.ROOT_DIR", "2020-01-01"]
    for recipe in RECIPES[::3]:
        cfg, _ = load_config(recipe, odd if "base" not in recipe.stem else odd[2:])
        assert load_config(written(tmp_path, cfg.dump()))[0] == cfg


@pytest.mark.parametrize(
    ("pairs", "value"),
    [
        (["TEST.THRESHOLDS", "[0.5, 1]"], [0.5, 1.0]),
        (["TEST.GROUPS", "[gender, 'skin']"], None),
        (["TEST.GROUPS", "['gender', 'skin']"], ["gender", "skin"]),
        (["SOLVER.STAGES", "[]", "SOLVER.STAGES", "[2]"], [2]),
        (["TEST.FAR", "[]", "TEST.FAR", "[0.1]"], [0.1]),
    ],
)
def test_empty_lists_take_items_of_their_type(pairs, value):
    start = ["MODEL.METHOD", "baseline"]
    if value is None:
        with pytest.raises(ReIDError, match="GROUPS"):
            load_config(None, [*start, *pairs])
        return
    cfg, _ = load_config(None, [*start, *pairs])
    group, key = pairs[0].split(".")
    assert cfg[group][key] == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("FAR", "[0.0]", "must lie between 0 and 1"),
        ("FPIR", "[1.5]", "must lie between 0 and 1"),
        ("OPEN_SET", "1.5", "between 0 and 1"),
        ("TEMPLATE_SIZE", "[]", "name at least one number"),
        ("TEMPLATE_SIZE", "[0]", "at least 1"),
        ("FUSE", "max", "choose one of none, mean, logistic"),
        ("THRESHOLDS", "['a']", "THRESHOLDS"),
    ],
)
def test_wrong_biometric_keys_are_refused(key, value, message):
    with pytest.raises(ReIDError, match=message):
        load_config(None, [f"TEST.{key}", value])


def test_old_names_of_keys_are_accepted_with_a_note(tmp_path):
    written(tmp_path, "SOLVER: {STAGE2: {ACCUMULATE: 4}}\n", "base.yml")
    cfg, notes = load_config(written(tmp_path, "_BASE_: base.yml\n"))
    assert cfg.SOLVER.STAGE2.MICRO_BATCHES == 4
    assert notes == ["SOLVER.STAGE2.ACCUMULATE is now SOLVER.STAGE2.MICRO_BATCHES; its value was taken."]
    assert (
        load_config(written(tmp_path, "_BASE_: base.yml\nSOLVER.STAGE2.MICRO_BATCHES: 2\n"))[
            0
        ].SOLVER.STAGE2.MICRO_BATCHES
        == 2
    )
    cfg, notes = load_config(None, ["SOLVER.STAGE1.ACCUMULATE", "3"])
    assert cfg.SOLVER.STAGE1.MICRO_BATCHES == 3 and len(notes) == 1
