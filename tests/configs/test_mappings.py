"""Mappings with names of the user's own stay as written, and are replaced as a whole."""

from configs import load_config


def test_values_stay_as_written(tmp_path):
    (tmp_path / "base.yml").write_text(
        "DATASETS:\n  TRAIN: {person: 1-150}\n  ENROL: {session: 1}\n  KEEP: {view: [010, PALM]}\n"
    )
    (tmp_path / "mine.yml").write_text("_BASE_: base.yml\nDATASETS.TRAIN:\n  sample: 1-3\n  day: 2012-05-09\n")
    keys = load_config(tmp_path / "mine.yml", ["DATASETS.PROBE", "{session: 2}"])[0].DATASETS
    assert keys.TRAIN == "{sample: 1-3, day: 2012-05-09}" and keys.ENROL == "{session: 1}"
    assert keys.PROBE == "{session: 2}" and keys.KEEP == "{view: [010, PALM]}"


def test_a_written_configuration_reads_back(tmp_path):
    (tmp_path / "mine.yml").write_text("DATASETS:\n  TRAIN: {person: [1, 3-7], 'a b': x}\n")
    cfg = load_config(tmp_path / "mine.yml")[0]
    (tmp_path / "config.yml").write_text(cfg.dump())
    assert load_config(tmp_path / "config.yml")[0] == cfg
