"""The sections of an evaluation on made-up features of people with two hands: counts, refusals, what is kept."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from configs import load_config
from datasets.bases import QueryGallerySplit, Record
from processor.biometrics.calibration import fit, likelihood_ratios
from processor.biometrics.errors import error_rates
from processor.biometrics.fusion import fuse
from processor.biometrics.groups import by_group
from processor.biometrics.normalisation import normalised
from processor.biometrics.open_set import open_set
from processor.biometrics.performance import as_markdown, performance_record
from processor.biometrics.setting import (
    Setting,
    copy_numbers,
    crossing_of,
    given_thresholds,
    ranked_without_copies,
    verified,
)
from processor.biometrics.templates import template_curve
from processor.biometrics.training import TrainingFeatures
from processor.biometrics.trust import calibration_facts, calibration_file, trusted_calibration
from processor.reports.error_rates import error_rates as shown_in_tables
from processor.testing.biometrics import by_protocol, check_performance, keep
from utils.biometric import pair_scores
from utils.biometric.comparisons import Crossing
from utils.errors import ReIDError
from utils.metrics import Features, evaluate

PEOPLE, IMAGES = 24, 4
HANDS = ("left", "right")


def make(people, seed, first=0, noise=0.9):
    """Features, records and attributes of two hands each, four images, two sessions; a hand is an identity."""
    random = np.random.default_rng(seed)
    records, facts = [], {}
    for pid in range(2 * people):
        for image in range(IMAGES):
            record = Record(f"{first + pid}_{image}.jpg", pid, image % 2, 0)
            records.append(record)
            person = first + pid // 2
            gender = "female" if person % 3 else "male"
            facts[record.path] = {"person": f"p{person:03}", "hand": HANDS[pid % 2], "gender": gender}
            if person == first:
                facts[record.path]["age"] = "old"
    centres = random.normal(size=(2 * people, 16))
    features = np.repeat(centres, IMAGES, 0) + noise * random.normal(size=(len(records), 16))
    return features.astype(np.float32), records, facts


def features_of(features, records):
    return Features(torch.from_numpy(features), [r.pid for r in records], [r.camid for r in records])


@pytest.fixture
def setting():
    return make_setting()


def make_setting(*pairs, noise=0.9):
    cfg, _ = load_config(None, ["TEST.BOOTSTRAP", "40", "TEST.FAR", "[0.1, 0.01, 0.00001]", *pairs])
    values, records, facts = make(PEOPLE, 0, noise=noise)
    taught, trained, more = make(PEOPLE, 1, first=500)
    place = [[i for i, r in enumerate(records) if r.camid == side] for side in (0, 1)]
    query, gallery = ([records[i] for i in rows] for rows in place)
    dataset = SimpleNamespace(
        name="made up",
        protocol="",
        camera_rule="none",
        query=query,
        gallery=gallery,
        trials=[QueryGallerySplit(None, query, gallery)],
        attributes=facts | more,
        test_identities=[f"{pid // 2:03}_{HANDS[pid % 2]}" for pid in range(2 * PEOPLE)],
        train_identities=[f"t{pid}" for pid in range(2 * PEOPLE)],
        person=lambda record: dataset.attributes.get(record.path, {}).get("person"),
    )
    sides = (features_of(values[rows], part) for rows, part in zip(place, (query, gallery), strict=True))
    people = [more[record.path]["person"] for record in trained]
    training = TrainingFeatures(features_of(taught, trained), trained, people, True)
    return Setting(cfg.TEST, 0, dataset, *sides, training)


def test_people_not_images_are_drawn(setting):
    assert setting.subjects.count == PEOPLE and setting.drawn.shape == (40, PEOPLE)
    ranked = evaluate(setting.query, setting.gallery)
    section = error_rates(setting, verified(setting.test, setting.blocks, setting.crossing), ranked)
    assert {"EER", "TAR at FAR 0.1", "mAP", "Rank-1"} <= set(section.replicates)
    assert "TAR at FAR 1e-05" not in section.replicates  # not reported, so no interval either
    low, high = section.record["EER interval"]
    assert low < section.record["EER"] < high
    assert section.record["genuine pairs"] == 2 * PEOPLE * 4
    low, high = section.record["intervals"]["mAP"]
    assert low < 100 * ranked.mAP < high
    assert section.replicates["mAP"].mean() > ranked.mAP + 0.02, "a replicate has fewer distinct impostors"


def test_open_set_leaves_whole_people_out():
    setting = make_setting("TEST.OPEN_SET", "0.5", "TEST.RUNS", "3", "TEST.FPIR", "[0.7, 0.1]")
    section = open_set(setting)
    assert section.record["enrolled people"] == PEOPLE  # half of the people, two hands each
    assert section.record["mated searches"] == section.record["non-mated searches"] == PEOPLE * 2
    assert section.record["FNIR at FPIR 0.1"] is None and "rule of 30" in dict(section.table)["FNIR at FPIR 0.1"]
    low, high = section.record["FNIR at FPIR 0.7 interval"]
    assert low <= section.record["FNIR at FPIR 0.7"] <= high
    assert section.record["FNIR at FPIR 0.7"] + section.record["DIR at FPIR 0.7"] == pytest.approx(100)


def test_the_data_set_may_define_who_is_not_enrolled():
    setting = make_setting("TEST.OPEN_SET", "0.5", "TEST.RUNS", "3", "TEST.FPIR", "[0.7]")
    kept = setting.gallery.pids >= 20  # ten people with two hands are probes alone
    gallery = Features(setting.gallery.features[kept], setting.gallery.pids[kept], setting.gallery.camids[kept])
    setting.dataset.gallery = [record for record in setting.dataset.gallery if record.pid >= 20]
    section = open_set(replace(setting, gallery=gallery))
    assert section.record["enrolled people"] == 28 and section.record["drawings"] == 1
    assert (section.record["mated searches"], section.record["non-mated searches"]) == (56, 40)
    assert section.record["people with mated searches"] == 14
    assert section.protocol.startswith("people without a gallery image are not enrolled")


@pytest.mark.parametrize("rule", ["mean_feature", "best", "mean_score"])
@pytest.mark.parametrize("side", ["gallery", "both"])
def test_templates_count_as_in_the_protocol(side, rule):
    setting = make_setting("TEST.TEMPLATE", side, "TEST.TEMPLATE_SIZE", "[1, 2]", "TEST.TEMPLATE_RULE", rule)
    section = template_curve(setting)
    two = section.record["2 + 2 images" if side == "both" else "2 enrolled"]
    assert two["genuine pairs"] == 2 * PEOPLE * (1 if side == "both" else 2)
    assert two["EER"] <= section.record["1 + 1 images" if side == "both" else "1 enrolled"]["EER"] + 3
    with pytest.raises(ReIDError, match="0 identities have 3 gallery images"):
        template_curve(make_setting("TEST.TEMPLATE", side, "TEST.TEMPLATE_SIZE", "[3]"))


@pytest.mark.parametrize("rule", ["mean", "logistic"])
def test_two_hands_are_better_than_one(rule):
    section = fuse(make_setting("TEST.FUSE", rule))
    assert section.record["modalities"] == ["left", "right"]
    alone = [section.record[f"{hand} alone"]["EER"] for hand in HANDS]
    fused = section.record["all 2 fused"]
    assert fused["EER"] < min(alone) and fused["genuine pairs"] == PEOPLE * 2


def test_fusion_needs_persons_and_modalities(setting):
    dataset = setting.dataset
    dataset.attributes = {path: {"person": facts["person"]} for path, facts in dataset.attributes.items()}
    with pytest.raises(
        ReIDError, match=r"TEST.FUSE: 192 of 192 test images of made up lack person, or all of side, hand, finger"
    ):
        fuse(setting)
    cfg, _ = load_config(None, ["TEST.FUSE", "mean"])
    with pytest.raises(ReIDError, match=r"TEST.FUSE"):
        check_performance(cfg, dataset)


def test_score_normalisation_reports_its_cohort():
    section = normalised(make_setting("TEST.SCORE_NORM", "as"))
    assert section.record["cohort images"] == 2 * PEOPLE * IMAGES and "20 highest" in section.protocol
    assert 0 < section.record["EER"] < 30


def test_groups_of_few_people_are_named(setting):
    setting = make_setting("TEST.GROUPS", "['gender', 'age']")
    found = verified(setting.test, setting.blocks, setting.crossing)
    section = by_group(setting, found)
    female, male = (section.record["gender"].get(name) for name in ("female", "male"))
    assert female["people"] == 16 and male is None and section.record["gender"]["too few people"] == {"male": 8}
    assert section.record["age"] == {"too few people": {"old": 1}}
    low, high = female["FNMR interval"]
    assert low <= female["FNMR"] <= high
    ((pair,),), ((rate,),) = (section.record["gender"][f"FMR by pair of groups{end}"] for end in (", intervals", ""))
    assert pair == female["FMR interval"] and pair[0] <= rate <= pair[1]
    cfg, _ = load_config(None, ["TEST.GROUPS", "['skin']"])
    with pytest.raises(ReIDError, match="has no attribute 'skin'; its attributes are: age, gender, hand, person"):
        check_performance(cfg, setting.dataset)


def test_a_calibration_is_kept_and_trusted(setting, tmp_path, monkeypatch):
    weights = tmp_path / "model.pth"
    weights.write_bytes(b"weights")
    cfg, _ = load_config(None, [])
    facts = calibration_facts(cfg, weights)
    calibration = fit(setting, facts)
    assert calibration.pairs[0] == 2 * PEOPLE * 4  # across sessions alone
    section = likelihood_ratios(setting, calibration, verified(setting.test, setting.blocks, setting.crossing).scores)
    assert 0 < section.record["logistic"]["Cllr_min"] <= section.record["logistic"]["Cllr"] < 1
    with pytest.raises(ReIDError, match="no calibration"):
        trusted_calibration(weights, facts)
    with monkeypatch.context() as patch:
        patch.setattr("processor.testing.biometrics.HANDS_CLIP", weights)
        keep(calibration, tmp_path, weights)
        assert [path.name for path in tmp_path.glob("*.json")] == ["calibration.json"], "nothing in the package"
    keep(calibration, tmp_path, weights)
    assert calibration_file(weights).name == "model.calibration.json"
    assert trusted_calibration(weights, facts).slope == calibration.slope
    with pytest.raises(ReIDError, match="FLIP False"):
        trusted_calibration(weights, facts | {"protocol": facts["protocol"] | {"FLIP": True}})
    weights.write_bytes(b"other weights")
    with pytest.raises(ReIDError, match="fitted for weights with the checksum"):
        trusted_calibration(weights, calibration_facts(cfg, weights))


WIDEST = 100 * (1 - 0.05 ** (1 / PEOPLE))
"""One-sided Clopper-Pearson bound where none of the people made an error: 11.7 %."""


def test_without_errors_the_bound_over_people_is_given(tmp_path):
    """With six genuine pairs or a million: without errors, resampling shows no spread."""
    keys = ["TEST.OPEN_SET", "0.5", "TEST.FPIR", "[0.7]", "TEST.TEMPLATE", "gallery", "TEST.TEMPLATE_SIZE", "[2]"]
    keys += ["TEST.FUSE", "mean", "TEST.SCORE_NORM", "s", "TEST.GROUPS", "['gender']", "TEST.THRESHOLDS", "[0.95]"]
    setting = make_setting(*keys, noise=0.01)
    found = verified(setting.test, setting.blocks, setting.crossing)
    ranked = evaluate(setting.query, setting.gallery)
    assert found.eer == 0 and ranked.mAP == 1
    first = error_rates(setting, found, ranked)
    record = first.record
    assert record["people"] == record["people with genuine pairs"] == PEOPLE
    assert record["EER interval"] == record["FMR at 0.95 interval"] == pytest.approx([0, WIDEST])
    assert record["TAR at FAR 0.01 interval"] == record["intervals"]["mAP"] == pytest.approx([100 - WIDEST, 100])
    assert "EER 0.00% [0.00%, 11.73%] at score" in found.lines(first.intervals)[1]
    calibration = fit(make_setting(), {})
    sections = [first, open_set(setting), template_curve(setting), fuse(setting), normalised(setting)]
    sections += [by_group(setting, found), likelihood_ratios(setting, calibration, found.scores)]
    shown = [(measure, text) for section in sections for measure, text in section.table if "%" in text]
    no_rates = ("Scores outside", "Limits", "gender: worst")
    for measure, text in shown:
        if not measure.startswith(no_rates):
            assert "[0.00%, 0.00%]" not in text and "[100.00%, 100.00%]" not in text
            for rate in ("0.00%", "100.00%"):
                bare = [part for part in text.split(", ") if part.endswith(f" {rate}") or part == rate]
                assert not bare, f"{measure}: {text}"
    row = {"verification": performance_record(sections)["verification"]}
    assert shown_in_tables(row)["EER"] == "0.00 [0.00, 11.73]"
    assert shown_in_tables(row)["mAP 95 %"] == "[88.27, 100.00]"


def test_without_replicates_too():
    setting = make_setting("TEST.BOOTSTRAP", "0", noise=0.01)
    found = verified(setting.test, setting.blocks, setting.crossing)
    section = error_rates(setting, found, evaluate(setting.query, setting.gallery))
    assert section.record["EER interval"] == pytest.approx([0, WIDEST])


def test_no_figure_depends_on_the_size_of_blocks(monkeypatch):
    keys = ["TEST.OPEN_SET", "0.5", "TEST.FPIR", "[0.7]", "TEST.TEMPLATE", "both", "TEST.TEMPLATE_SIZE", "[1, 2]"]
    keys += ["TEST.FUSE", "logistic", "TEST.SCORE_NORM", "as", "TEST.GROUPS", "['gender']", "TEST.THRESHOLDS", "[0.5]"]
    keys += ["TEST.BOOTSTRAP", "10"]

    def figures():
        setting = make_setting(*keys)
        found = verified(setting.test, setting.blocks, setting.crossing)
        sections = [error_rates(setting, found, evaluate(setting.query, setting.gallery)), by_group(setting, found)]
        sections += [section(setting) for section in (open_set, template_curve, fuse, normalised)]
        return json.dumps([section.record for section in sections]), sections[0].replicates

    (records, replicates), rows = figures(), pair_scores.block_rows(2 * PEOPLE * 2, torch.device("cpu"))
    monkeypatch.setitem(pair_scores.BLOCK_ELEMENTS, "cpu", 700)
    assert pair_scores.block_rows(2 * PEOPLE * 2, torch.device("cpu")) == 7 < rows
    again = figures()
    assert again[0] == records
    for name, values in replicates.items():
        np.testing.assert_array_equal(again[1][name], values, err_msg=name)


@pytest.mark.parametrize("once", [False, True])
def test_people_with_a_genuine_comparison_are_counted(setting, once):
    """As in the comparisons themselves: under the camera rule, without copies, and each pair once."""
    random = torch.Generator().manual_seed(3)
    labels = lambda: [torch.randint(n, (96,), generator=random) for n in (40, 2)]  # noqa: E731
    query = Features(setting.query.features, *labels())
    gallery = query if once else Features(setting.gallery.features, *labels())
    files = torch.randint(4, (96,), generator=random)
    copies = None if once else (files, files.flip(0))
    crossing = Crossing(query, gallery, "none" if once else "market", copies, once)
    expected = torch.cat([(block.same & block.counted).any(1) for block in crossing.blocks()])
    assert torch.equal(crossing.has_match(), expected) and expected.any() and not expected.all()


def test_an_image_does_not_find_itself_or_its_copy(setting, tmp_path):
    content = [b"a", b"b", b"a", b"c"]
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path, data in zip(paths, content, strict=True):
        path.write_bytes(data)
    records = [Record(str(path), 0, 0, 0) for path in paths]
    first, second = copy_numbers(records[:3], records[2:])
    assert (first[:, None] == second).tolist() == [[True, False], [False, False], [True, False]]
    assert copy_numbers(records[:2], records[3:]) is None
    trial = QueryGallerySplit(None, setting.dataset.query, setting.dataset.query)
    crossing = crossing_of(trial, setting.query, setting.query, "none")
    assert crossing.once
    with_itself = evaluate(setting.query, setting.query, camera_rule="none")
    *parts, rule = ranked_without_copies(crossing)
    alone = evaluate(*parts, camera_rule=rule)
    assert with_itself.rank(1) == 1 and alone.rank(1) < 1
    found = verified(setting.test, crossing.blocks, crossing)
    assert found.num_genuine == 2 * PEOPLE and found.num_genuine + found.num_impostor == 96 * 95 // 2


@pytest.mark.parametrize("protocol", ["pairs", "fvc"])
def test_listed_pairs_replace_the_crossing(setting, protocol):
    dataset = setting.dataset
    dataset.protocol = protocol
    left, right = np.array([0, 0, 5, 7, 9]), np.array([0, 3, 5, 1, 9])
    same = setting.query.pids.numpy()[left] == setting.gallery.pids.numpy()[right]
    dataset.pair_rows = lambda: (left, right, same)
    evaluation = SimpleNamespace(query=setting.query, gallery=setting.gallery, verification=None)
    cfg, _ = load_config(None, [])
    evaluation = replace_namespace(by_protocol, cfg, dataset, evaluation)
    counts = evaluation.num_genuine, evaluation.num_impostor
    assert counts == ((int(same.sum()), int((~same).sum())) if protocol == "pairs" else (48, 48 * 47 // 2))


def replace_namespace(function, cfg, dataset, evaluation):
    """``by_protocol`` replaces a field of a dataclass; here the error rates themselves are wanted."""
    setting = Setting(cfg.TEST, 0, dataset, evaluation.query, evaluation.gallery)
    return verified(cfg.TEST, setting.blocks, None)


def test_thresholds_come_from_another_run(tmp_path):
    cfg, _ = load_config(None, ["TEST.THRESHOLDS", "[0.5]", "TEST.THRESHOLD_FROM", str(tmp_path)])
    with pytest.raises(ReIDError, match=r"TEST.THRESHOLD_FROM = .*no metrics.json"):
        given_thresholds(cfg.TEST)
    row = dict.fromkeys(("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP", "seconds"), 1.0)
    row |= dict.fromkeys(("queries", "queries_without_match"), 1)
    row |= dict.fromkeys(("weights", "dataset", "model", "method"), "x")
    for verification in ({}, {"threshold at FAR 0.01": 0.75}):
        results = {"trained": row | {"verification": verification}}
        content = {"results": results, "seconds": 1.0, "history": [], "environment": {}}
        (tmp_path / "metrics.json").write_text(json.dumps(content))
        if not verification:
            with pytest.raises(ReIDError, match="has no threshold at a FAR"):
                given_thresholds(cfg.TEST)
    assert given_thresholds(cfg.TEST) == [0.5, 0.75]
    cfg, _ = load_config(None, ["TEST.POINTS", "100", "TEST.THRESHOLD_FROM", str(tmp_path)])
    with pytest.raises(ReIDError, match="score 'cosine similarity', here the score is 'agreeing points'"):
        given_thresholds(cfg.TEST)
    content["results"]["trained"]["protocol"] = {"POINTS": "20"}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert given_thresholds(cfg.TEST) == [0.75]


def test_numbers_and_table_can_be_written(setting):
    ranked = evaluate(setting.query, setting.gallery)
    section = error_rates(setting, verified(setting.test, setting.blocks, setting.crossing), ranked)
    odd = replace(section, title="Odd", record={"a": float("inf"), "b": [float("nan"), 1.0]}, table=[("x | y", "1")])
    record = performance_record([section, odd])
    assert json.loads(json.dumps(record, allow_nan=False))["biometrics"]["Odd"]["b"] == [None, 1.0]
    row = {"dataset": "d", "model": "m", "method": "b", "weights": "w", "device": "cpu, float32", "protocol": {}}
    text = as_markdown([section, odd], row)
    assert "| Error rates | EER | " in text and "x \\| y" in text and "weights: w" in text
    assert performance_record([]) == {}
