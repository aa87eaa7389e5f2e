"""Every expected value of the kit, computed by utils.biometric and utils.metrics."""

import re

import numpy as np
import pytest
import torch

from tests.parity.biometric import kit
from utils.biometric import confidence, groups, open_set, templates
from utils.biometric.bootstrap import subjects as bootstrap
from utils.biometric.bootstrap.rankings import resample_rankings
from utils.biometric.comparisons import Comparisons, Crossing
from utils.biometric.error_rates import tally
from utils.biometric.group_counts import count_units, number_units
from utils.biometric.pair_scores import round_scores, score_blocks
from utils.biometric.protocols import fvc
from utils.biometric.scores import fusion, likelihood, normalisation
from utils.biometric.scores.isotonic import isotonic_blocks
from utils.biometric.scores.logistic import fit_logistic
from utils.metrics import Features, evaluate, evaluate_distances

LN10 = np.log(10)


def fars(name, prefix=""):
    """The FARs that the case's names hold."""
    found = {re.fullmatch(rf"{prefix}tar_at_far_([0-9.e-]+)", key) for key in kit.expected(name)}
    return sorted(float(match[1]) for match in found if match)


def key_of(number):
    return f"{number:f}".rstrip("0")


def errors(counted, rates, prefix=""):
    """What the kit calls the measures of a tally."""
    crossing = counted.equal_error()
    found = {
        "num_genuine": counted.num_genuine,
        "num_impostor": counted.num_impostor,
        "eer": crossing.rate,
        "eer_threshold_low_high": [crossing.low, crossing.high],
        "auc": counted.area(),
        "dprime": counted.decidability(),
    }
    for far in rates:
        accepted = counted.accept_rate(far)
        found |= {f"tar_at_far_{key_of(far)}": accepted.tar, f"tar_at_far_{key_of(far)}_supported": accepted.supported}
    return {prefix + key: number for key, number in found.items()}


def split(scores, query, gallery, camids=None):
    """Genuine and impostor scores of all queries with all gallery images."""
    known = gallery[None] >= 0
    same = query[:, None] == gallery[None]
    kept = same if camids is None else same & (camids[0][:, None] != camids[1][None])
    return scores[kept & known], scores[~same & known]


def ranking(metrics, trapezoid, max_rank):
    return {
        "ap": metrics.average_precision,
        "ap_trapezoid": trapezoid.average_precision,
        "map": metrics.mAP,
        "map_trapezoid": trapezoid.mAP,
        "minp": metrics.mINP,
        "cmc": metrics.cmc[:max_rank],
        "num_valid_queries": metrics.num_queries,
    }


def closed_set(name, chunk_size):
    data = kit.case(name)
    found = {}
    labels = [data[f"{part}_{label}"] for part in ("query", "gallery") for label in ("pids", "camids")]
    for prefix in {key.split("/")[0] for key in kit.expected(name)}:
        kind, metric, rule = ("unit", "cosine", prefix.split("_")[1])
        if prefix.startswith("raw"):
            kind, metric, rule = "raw", "euclidean", prefix.split("_")[2]
        query = Features(torch.from_numpy(data[f"query_{kind}"]), *labels[:2])
        gallery = Features(torch.from_numpy(data[f"gallery_{kind}"]), *labels[2:])
        ranks = [
            evaluate(query, gallery, metric=metric, camera_rule=rule, average_precision=ap, chunk_size=chunk_size)
            for ap in ("standard", "trapezoid")
        ]
        wanted = kit.expected(name).get(f"{prefix}/cmc")
        rows = ranking(*ranks, len(kit.value(wanted)) if wanted else None)
        if metric == "cosine":
            blocks = score_blocks(query.features, gallery.features, chunk_size=chunk_size)
            scores = torch.cat([block for _, block in blocks]).numpy()
            camids = (labels[1], labels[3]) if rule == "market" else None
            counted = tally(*split(scores, labels[0], labels[2], camids))
            rows |= errors(counted, fars(name, f"{prefix}/"))
            if f"{prefix}/thresholds" in data:
                rows |= dict(zip(("fmr", "fnmr"), counted.rates_at(data[f"{prefix}/thresholds"]), strict=True))
        found |= {f"{prefix}/{key}": number for key, number in rows.items()}
    return found


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("name", kit.names("a_"))
def test_closed_set_from_features(name, chunk_size):
    kit.check(name, closed_set(name, chunk_size), float32=True)


@pytest.mark.parametrize("name", [name for name in kit.names("a_") if "scores" in kit.case(name)])
def test_closed_set_from_the_scores_given_is_exact(name):
    data = kit.case(name)
    labels = [data[f"{part}_pids"] for part in ("query", "gallery")]
    cameras = [data[f"{part}_camids"] for part in ("query", "gallery")]
    found = closed_set(name, None)
    for rule in ("none", "market"):
        counted = tally(*split(data["scores"], *labels, cameras if rule == "market" else None))
        found |= errors(counted, fars(name, f"cosine_{rule}/"), f"cosine_{rule}/")
        if f"cosine_{rule}/thresholds" in data:
            rates = counted.rates_at(data[f"cosine_{rule}/thresholds"])
            found |= {f"cosine_{rule}/fmr": rates[0], f"cosine_{rule}/fnmr": rates[1]}
    kit.check(name, found)


@pytest.mark.parametrize("name", [name for name in kit.names("b_") if "genuine" in kit.case(name)])
def test_score_lists(name):
    data = kit.case(name)
    counted = tally(data["genuine"], data["impostor"])
    found = errors(counted, fars(name))
    found["fmr"], found["fnmr"] = counted.rates_at(data["thresholds"])
    kit.check(name, found)


@pytest.mark.parametrize("name", kit.names("b_rank"))
def test_equal_distances_rank_by_gallery_index(name):
    data = kit.case(name)
    metrics = [
        evaluate_distances(
            [torch.from_numpy(data["distances"]).clone()],
            data["query_pids"],
            data["gallery_pids"],
            np.zeros_like(data["query_pids"]),
            np.zeros_like(data["gallery_pids"]),
            camera_rule="none",
            average_precision=ap,
        )
        for ap in ("standard", "trapezoid")
    ]
    length = len(kit.value(kit.expected(name)["index/cmc"]))
    kit.check(name, {f"index/{key}": number for key, number in ranking(*metrics, length).items()})


@pytest.mark.parametrize("name", kit.names("b_confidence"))
def test_confidence_of_a_rate(name):
    data = kit.case(name)
    seen = list(zip(data["errors"].tolist(), data["trials"].tolist(), strict=True))
    zero = [trials for errors, trials in seen if errors == 0]
    found = {
        "clopper_pearson_95": [confidence.clopper_pearson(*pair) for pair in seen],
        "zero_errors_trials": zero,
        "zero_errors_upper_one_sided_95": [confidence.upper_bound_without_errors(n) for n in zero],
        "rule_of_3": [confidence.rule_of_3(n) for n in zero],
    }
    kit.check(name, found)


def open_set_values(name, searches, thresholds):
    found = {
        "num_mated": searches.num_mated,
        "num_nonmated": searches.num_nonmated,
        "fpir": searches.fpir(thresholds),
        "mated_misidentification": searches.mated_misidentification(thresholds),
    }
    for key in kit.expected(name):
        if match := re.fullmatch(r"(dir|fnir)_(rank(\d+)|any_rank)(_at_fpir_([0-9.]+))?", key):
            rank = int(match[3]) if match[3] else None
            where = [searches.threshold_at(float(match[5]))] if match[4] else thresholds
            rates = getattr(searches, match[1])(where, rank)
            found[key] = rates[0] if match[4] else rates
        elif match := re.fullmatch(r"(threshold|fpir)_at_fpir_([0-9.]+)", key):
            at = float(match[2])
            reached = searches.fpir([searches.threshold_at(at)])[0]
            found[key] = searches.refused_score(at) if match[1] == "threshold" else reached
        elif match := re.fullmatch(r"cmc_rank(\d+)", key):
            found[key] = searches.identification(int(match[1]))
    return found


@pytest.mark.parametrize("name", kit.names("c_"))
def test_open_set_from_the_scores_given(name):
    data = kit.case(name)
    scores = torch.from_numpy(data["identity_scores"])
    half = len(scores) // 2
    blocks = [(slice(0, half), scores[:half]), (slice(half, len(scores)), scores[half:])]
    searches = open_set.search_people(blocks, data["probe_pids"], data["enrolled_pids"])
    assert searches.enrolled == len(data["enrolled_pids"])
    kit.check(name, open_set_values(name, searches, data["thresholds"]))


@pytest.mark.parametrize("chunk_size", [None, 13])
@pytest.mark.parametrize("name", [name for name in kit.names("c_") if "probe_unit" in kit.case(name)])
def test_open_set_from_features(name, chunk_size):
    data = kit.case(name)
    searches = open_set.search_features(
        torch.from_numpy(data["probe_unit"]),
        data["probe_pids"],
        torch.from_numpy(data["template_unit"]),
        data["template_pids"],
        chunk_size=chunk_size,
    )
    # Some thresholds equal a score, which is rounded to 2^-40 here.
    thresholds = round_scores(torch.from_numpy(data["thresholds"]).clone()).numpy()
    kit.check(name, open_set_values(name, searches, thresholds), float32=True)


@pytest.mark.parametrize("name", kit.names("d_"))
def test_templates(name):
    data = kit.case(name)
    enrolled, probes = torch.from_numpy(data["enrol_unit"]), torch.from_numpy(data["probe_unit"])
    people, images, width = enrolled.shape
    pids = torch.arange(people).repeat_interleave(images)
    found = {}
    for size in sorted({int(key.split("/")[0][1:]) for key in kit.expected(name)}):
        chosen = templates.choose_images(pids, size)
        assert chosen.pids.tolist() == list(range(people))
        flat = enrolled.reshape(-1, width)
        single = torch.cat([block for _, block in score_blocks(probes, flat[chosen.rows])])
        means = templates.mean_features(flat, chosen)
        scores = {rule: templates.join_columns(single, chosen.group, people, rule) for rule in templates.RULES[1:]}
        scores["mean_feature"] = torch.cat([block for _, block in score_blocks(probes, means)])
        for rule, values in scores.items():
            own = data["probe_pids"][:, None] == chosen.pids.numpy()
            counted = tally(values.numpy()[own], values.numpy()[~own])
            found |= {
                f"n{size}/{rule}/scores": values.numpy(),
                f"n{size}/{rule}/eer": counted.equal_error().rate,
                f"n{size}/{rule}/rank1": (values.argmax(1).numpy() == data["probe_pids"]).mean(),
            }
    kit.check(name, found)


@pytest.mark.parametrize("name", ["e_score_norm"])
def test_score_normalisation(name):
    data = {key: torch.as_tensor(value) for key, value in kit.case(name).items()}
    top = int(data["top"])
    scores, enrol, test = data["scores"], data["enrol_cohort"], data["test_cohort"]
    whole = [normalisation.cohort_spread(part) for part in (enrol, test)]
    best = [normalisation.cohort_spread(part, top=top) for part in (enrol, test)]
    cohort = torch.cat([block for _, block in score_blocks(data["cohort_unit"], data["cohort_unit"])])
    found = {f"{rule}norm": normalisation.normalise(scores, rule, *whole).numpy() for rule in ("z", "t", "s")}
    found["asnorm1"] = normalisation.normalise(scores, "as", *best).numpy()
    found["ztnorm"] = normalisation.zt_norm(scores, enrol, test, cohort, data["cohort_pids"]).numpy()
    kit.check(name, found)


@pytest.mark.parametrize("name", kit.names("e_score_norm_shared"))
def test_people_compared_are_left_out_of_the_cohort(name):
    data = {key: torch.as_tensor(value) for key, value in kit.case(name).items()}
    spreads = [
        normalisation.cohort_spread(data[f"{part}_cohort"], data[f"{part}_pids"], data["cohort_pids"], int(data["top"]))
        for part in ("enrol", "test")
    ]
    kit.check(name, {"asnorm1": normalisation.normalise(data["scores"], "as", *spreads).numpy()})


@pytest.mark.parametrize("name", kit.names("f_"))
def test_fusion(name):
    data = kit.case(name)
    genuine, occasions = data["test_genuine"].astype(bool), np.unique(data["test_probe"])

    def measures(scores):
        right = []
        for occasion in occasions:
            rows = np.flatnonzero(data["test_probe"] == occasion)
            right.append(genuine[rows[scores[rows].argmax()]])
        return {"eer": tally(scores[genuine], scores[~genuine]).equal_error().rate, "rank1": np.mean(right)}

    columns = data["train_scores"].shape[1]
    both = data["train_scores"], data["train_genuine"]
    found = {
        f"modality{k}/{key}": number
        for k in range(columns)
        for key, number in measures(data["test_scores"][:, k]).items()
    }
    found["znorm_mean"], found["znorm_std"] = fusion.fit_fusion(*both).mean, fusion.fit_fusion(*both).std
    for size in sorted({int(m[1]) for key in kit.expected(name) if (m := re.match(r"fuse(\d+)/", key))}):
        for rule in fusion.RULES:
            fitted = fusion.fit_fusion(both[0][:, :size], both[1], rule)
            scores = fitted.fuse(data["test_scores"][:, :size])
            rows = {"scores": scores, **measures(scores)}
            if rule == "logistic":
                cost = likelihood.cllr(scores[genuine], scores[~genuine])
                rows |= {"weights": fitted.weights, "intercept": fitted.intercept, "cllr": cost}
            found |= {f"fuse{size}/{rule}/{key}": number for key, number in rows.items()}
    missing = data["test_scores_missing"]
    found[f"missing{columns}/mean/scores"] = fusion.fit_fusion(*both).fuse(missing)
    kit.check(name, found)


@pytest.mark.parametrize("name", kit.names("g_"))
def test_calibration(name):
    data = kit.case(name)
    train = [data["train_genuine"], data["train_impostor"]]
    test = [data["test_genuine"], data["test_impostor"]]
    is_genuine = np.repeat([True, False], [len(part) for part in train])
    (slope,), intercept = fit_logistic(np.concatenate(train)[:, None], is_genuine)
    bounds = likelihood.elub(*(slope * part + intercept for part in train))
    blocks = isotonic_blocks(*train)
    llrs = {"logistic": [slope * part + intercept for part in test], "pav": [blocks.llr(part) for part in test]}
    llrs["elub"] = [np.clip(part, *(LN10 * bound for bound in bounds)) for part in llrs["logistic"]]
    found = {}
    for kind, pair in llrs.items():
        cost, least = likelihood.cllr(*pair), likelihood.cllr_min(*pair)
        rows = {"llr_genuine": pair[0], "llr_impostor": pair[1], "cllr": cost, "cllr_min": least}
        found |= {f"{kind}/{key}": number for key, number in rows.items()} | {f"{kind}/cllr_cal": cost - least}
    odds, grid = data["log10_prior_odds"], data["tippett_log10"]
    found |= {
        "logistic/slope_intercept": [slope, intercept],
        "pav/blocks": np.column_stack([blocks.low, blocks.high, blocks.genuine, blocks.impostor]),
        "elub/bounds_log10": bounds,
        "logistic/ece": likelihood.empirical_cross_entropy(*llrs["logistic"], odds),
        "logistic/ece_min": likelihood.empirical_cross_entropy(*likelihood.optimal_llrs(*llrs["logistic"]), odds),
        "ece_reference": likelihood.prior_entropy(odds),
        "logistic/tippett_genuine": likelihood.tippett(llrs["logistic"][0], grid),
        "logistic/tippett_impostor": likelihood.tippett(llrs["logistic"][1], grid),
        "misleading_rates": likelihood.misleading(*llrs["logistic"]),
    }
    kit.check(name, found)


@pytest.mark.parametrize("name", kit.names("h_groups"))
def test_error_rates_by_group(name):
    data = kit.case(name)
    count = int(max(data["query_groups"].max(), data["gallery_groups"].max())) + 1
    same = data["query_pids"][:, None] == data["gallery_pids"][None]
    sides = [torch.from_numpy(data[f"{side}_groups"]) for side in ("query", "gallery")]
    people = [torch.from_numpy(data[f"{side}_pids"]) for side in ("query", "gallery")]
    units = number_units(bootstrap.Subjects(*people, int(max(map(torch.max, people))) + 1), sides)
    blocks = (
        Comparisons(
            slice(start, start + 7),
            torch.from_numpy(data["scores"][start : start + 7]),
            torch.from_numpy(same[start : start + 7]),
            torch.ones(same[start : start + 7].shape, dtype=torch.bool),
        )
        for start in range(0, len(same), 7)
    )
    counted = count_units(blocks, units, float(data["threshold"])).by_group([str(number) for number in range(count)])
    found = {
        "fmr_fnmr_overall": [
            counted.matched.sum() / counted.impostor.sum(),
            counted.missed.sum() / counted.genuine.sum(),
        ],
        "fnmr_by_group": counted.fnmr,
        "fmr_by_pair": counted.fmr,
        "genuine_count_by_group": counted.genuine,
        "impostor_count_by_pair": counted.impostor,
        "fmr_by_probe_group": counted.matched.sum(1) / counted.impostor.sum(1),
        "fnmr_gini": groups.gini(counted.fnmr),
        "fnmr_worst_over_best": groups.worst_over_best(counted.fnmr),
        "fmr_gini": groups.gini(counted.fmr_within),
        "fmr_worst_over_best": groups.worst_over_best(counted.fmr_within),
    }
    for key in kit.expected(name):
        if match := re.fullmatch(r"garbe_([0-9.]+)", key):
            found[key] = counted.garbe(float(match[1]))
    kit.check(name, found)


@pytest.mark.parametrize("name", kit.names("h_gini"))
def test_gini(name):
    kit.check(name, {"gini": [groups.gini(rates) for rates in kit.case(name)["rates"]]})


@pytest.mark.parametrize("rows", [1, 5, 10_000])
@pytest.mark.parametrize("name", kit.names("i_"))
def test_subject_bootstrap_replicate_by_replicate(name, rows):
    data = kit.case(name)
    scores = torch.from_numpy(data["scores"])
    query, gallery = torch.from_numpy(data["query_pids"]), torch.from_numpy(data["gallery_pids"])
    people = data["draws"].shape[1]
    drawn = np.stack([np.bincount(draw, minlength=people) for draw in data["draws"]])
    subjects = bootstrap.Subjects(query, gallery, people)

    def blocks():
        for start in range(0, len(scores), rows):
            part = slice(start, min(start + rows, len(scores)))
            same = query[part, None] == gallery
            yield Comparisons(part, scores[part], same, torch.ones_like(same))

    whole = tally(*split(data["scores"], data["query_pids"], data["gallery_pids"]))
    slope, intercept = data["llr_slope_intercept"]
    ranks = np.stack([data["query_pids"] == data["gallery_pids"][data["scores"].argmax(1)]]).mean()
    found = errors(whole, fars(name, "full_sample/"), "full_sample/")
    found |= {"full_sample/rank1": ranks, "full_sample/cllr": weighted_cllr(whole, slope, intercept)}
    places = bootstrap.choose_places(whole, len(whole.scores), [float(data["threshold"])])
    sums = bootstrap.resample_errors(blocks(), subjects, places, drawn)
    replicates = bootstrap.tallies(places, *sums)
    at = [t.rates_at([float(data["threshold"])]) for t in replicates]
    joint = {
        "eer": bootstrap.equal_errors(replicates),
        "rank1": resample_rankings(blocks(), subjects, drawn).measures()["Rank-1"],
        "cllr": np.array([weighted_cllr(t, slope, intercept) for t in replicates]),
        "fmr_at_threshold": np.array([fmr[0] for fmr, _ in at]),
        "fnmr_at_threshold": np.array([fnmr[0] for _, fnmr in at]),
    }
    for far in fars(name, "joint/"):
        joint[f"tar_at_far_{key_of(far)}"] = bootstrap.accept_rates(replicates, far, exact=True)
    found |= {f"joint/{key}": values for key, values in joint.items()}
    found |= {f"joint/{key}_interval_95": bootstrap.interval(values) for key, values in joint.items()}
    found |= {f"joint/num_{kind}": part.sum(1) for kind, part in zip(("genuine", "impostor"), sums, strict=True)}
    kit.check(name, found)


def weighted_cllr(counted, slope, intercept):
    llr = slope * counted.scores + intercept
    costs = np.logaddexp(0, -llr) / np.log(2), np.logaddexp(0, llr) / np.log(2)
    return (costs[0] @ counted.genuine / counted.num_genuine + costs[1] @ counted.impostor / counted.num_impostor) / 2


@pytest.mark.parametrize("chunk_size", [1, 50, 10**6])
@pytest.mark.parametrize("name", kit.names("j_"))
def test_which_comparisons_count(name, chunk_size):
    data = kit.case(name)
    images = Features(torch.ones(len(data["pids"]), 1), data["pids"], data["camids"])

    def count(rule):
        crossing = Crossing(images, images, rule, once=True, chunk_size=chunk_size, scores=data["scores"])
        parts = list(crossing.blocks())
        kinds = ([p.scores[p.counted & (p.same == same)] for p in parts] for same in (True, False))
        return tally(*(torch.cat(kind).numpy() for kind in kinds))

    unordered, market, pairs = count("none"), count("market"), fvc(images.pids)
    scores = data["scores"][pairs.left, pairs.right]
    protocol = tally(scores[pairs.same], scores[~pairs.same])
    both = tally(*split(data["scores"] - 9 * np.eye(len(images)), data["pids"], data["pids"]))
    found = errors(unordered, fars(name, "unordered/"), "unordered/")
    found |= {
        "ordered/num_genuine": both.num_genuine - len(images),
        "ordered/num_impostor": both.num_impostor,
        "ordered/eer": unordered.equal_error().rate,
        "unordered_market/num_genuine": market.num_genuine,
        "unordered_market/eer": market.equal_error().rate,
        "fvc/num_impostor": protocol.num_impostor,
        "fvc/eer": protocol.equal_error().rate,
    }
    kit.check(name, found)


def test_every_case_of_the_kit_is_tested():
    tested = ("a_", "b_", "c_", "d_", "e_score_norm", "f_", "g_", "h_groups", "h_gini", "i_", "j_")
    unknown = [name for name in kit.index() if not name.startswith(tested)]
    lists = [name for name in kit.names("b_") if "genuine" in kit.case(name)]
    others = [name for name in kit.names("b_") if name.startswith(("b_rank", "b_confidence"))]
    assert not unknown and len(lists) + len(others) == len(kit.names("b_"))
