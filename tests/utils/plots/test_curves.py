"""Charts: what is drawn is what was given."""

import numpy as np
import pytest
import torch
from PIL import Image

from utils.biometric.verification import verify
from utils.metrics import Features
from utils.plots.curves import (
    cmc_chart,
    curve_panels,
    embedding_chart,
    error_chart,
    save_figure,
    score_chart,
    similarity_chart,
    training_curves,
)

pytestmark = pytest.mark.usefixtures("drawn_charts")

HISTORY = [
    {"stage": 1, "epoch": 1, "loss": 3.0, "i2t": 1.0, "t2i": 2.0, "lr": 0.1, "images_per_second": 5.0, "seconds": 1.0},
    {"stage": 1, "epoch": 2, "loss": 2.5, "i2t": 0.5, "t2i": 2.0, "lr": 0.2, "images_per_second": 5.0, "seconds": 1.0},
    {"stage": 2, "epoch": 1, "loss": 4.0, "id": 4.0, "accuracy": 0.25, "lr": 0.3, "seconds": 1.0, "mAP": 20.0}
    | {"Rank-1": 30.0, "Rank-5": 40.0, "Rank-10": 50.0},
    {"stage": 2, "epoch": 2, "loss": 1.0, "id": 1.0, "accuracy": 0.75, "lr": 0.1, "seconds": 1.0},
]
RESULTS = {"untrained": {"mAP": 5.0, "Rank-1": 6.0}, "trained": {"mAP": 25.0, "Rank-1": 35.0}}


def drawn(axis):
    """Every line of an axis by its label."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def test_training_curves_show_the_history():
    by_title = {axis.get_title(): drawn(axis) for axis in training_curves(HISTORY, RESULTS).axes}
    assert by_title == {
        "stage 1: losses": {"loss": ([1, 2], [3.0, 2.5]), "i2t": ([1, 2], [1.0, 0.5]), "t2i": ([1, 2], [2.0, 2.0])},
        "stage 1: learning rate": {"lr": ([1, 2], [0.1, 0.2])},
        "stage 2: losses": {"loss": ([1, 2], [4.0, 1.0]), "id": ([1, 2], [4.0, 1.0])},
        "stage 2: learning rate": {"lr": ([1, 2], [0.3, 0.1])},
        "stage 2: training accuracy": {"accuracy": ([1, 2], [25.0, 75.0])},
        "test: query against gallery": {
            "mAP": ([0, 1, 2], [5.0, 20.0, 25.0]),
            "Rank-1": ([0, 1, 2], [6.0, 30.0, 35.0]),
        },
    }
    assert all(axis.get_xlabel() == "epoch" and axis.get_ylabel() for axis in training_curves(HISTORY, {}).axes)
    assert not curve_panels([], {})


def test_rates_and_accuracies_are_no_losses():
    entry = {"stage": 2, "epoch": 1, "loss": 1.0, "lr": 0.1, "lr of biases": 0.2, "accuracy": 0.5, "text accuracy": 0.1}
    lines = {panel.title: set(panel.lines) for panel in curve_panels([entry], {})}
    assert lines == {
        "stage 2: losses": {"loss"},
        "stage 2: learning rate": {"lr", "lr of biases"},
        "stage 2: training accuracy": {"accuracy", "text accuracy"},
    }


def test_curves_of_sentences_begin_at_the_start():
    history = [
        {**HISTORY[0], "sentence_accuracy": 0.5, "sentence_cosine": 0.4, "logit_span": 9.0, "length_product": 13}
    ]
    start = {"sentence_accuracy": 0.1, "sentence_cosine": 0.0, "logit_span": 1.0, "length_product": 12}
    panels = {panel.title: panel for panel in curve_panels(history, {}, {"1": start})}
    assert panels["stage 1: images nearest to their sentence"].lines == {"sentence_accuracy": ([0, 1], [10.0, 50.0])}
    assert panels["stage 1: span of the logits"].lines == {"logit_span": ([0, 1], [1.0, 9.0])}
    assert panels["stage 1: sentence and centroid"].lines == {"sentence_cosine": ([0, 1], [0.0, 0.4])}
    assert panels["stage 1: losses"].lines.keys() == {"loss", "i2t", "t2i"}


@pytest.fixture
def metrics():
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(8).repeat(4)
    features = torch.nn.functional.one_hot(pids, 8) + 0.5 * torch.randn(32, 8, generator=generator)
    return verify(Features(features[:16], pids[:16], pids[:16]), Features(features[16:], pids[16:], pids[16:]))


def test_verification_charts(metrics):
    roc, det = error_chart(metrics).axes
    far, accepted = next(iter(drawn(roc).values()))
    at = far.index(metrics.eer)
    assert accepted[at] == 1 - metrics.eer and np.all(np.diff(far) >= 0) and np.all(np.diff(accepted) >= 0)
    del far[at], accepted[at]
    assert np.allclose(accepted, 1 - metrics.curve.frr) and np.allclose(far, metrics.curve.far.clip(0.5 / 224))
    marked = drawn(det)[f"EER {metrics.eer:.2%}"]
    assert marked == ([metrics.eer], [metrics.eer])
    (histogram,) = score_chart(metrics, "cosine similarity").axes
    for patch, count in zip(histogram.patches, (metrics.num_genuine, metrics.num_impostor), strict=True):
        values, edges, _ = patch.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1), "a density"
        assert f"{count:,} pairs" in patch.get_label()
    assert drawn(histogram)[f"EER {metrics.eer:.2%} at {metrics.eer_threshold:.4f}"][0] == [metrics.eer_threshold] * 2


def test_the_det_curve_shows_no_error_that_was_not_made(metrics):
    """A rate of 0 has no place on a logarithmic axis: half a pair is not drawn for it."""
    det = error_chart(metrics).axes[1]
    rates = next(iter(drawn(det).values()))[1]
    assert min(rates) == metrics.curve.frr[metrics.curve.frr > 0].min() >= 1 / metrics.num_genuine
    assert any(label.startswith("no genuine pair refused from FAR ") for label in drawn(det))
    pids = torch.arange(4).repeat(2)
    features = Features(torch.nn.functional.one_hot(pids, 4).float(), pids, pids)
    lines = drawn(error_chart(verify(features, features)).axes[1])
    assert lines.pop("both errors equal") and not any(x or y for x, y in lines.values())
    assert "EER below 6.25% (1 of 16 genuine pairs)" in lines


def test_cmc_similarity_and_embedding_charts():
    cmc = np.array([0.5, 0.75, 0.75, 0.75, 1, 1])
    (axis,) = cmc_chart(cmc, 0.6, 20).axes
    lines = drawn(axis)
    assert lines.pop("Rank-1: 50.0%") == ([1], [0.5]) and lines.pop("Rank-5: 100.0%") == ([5], [1])
    assert list(lines.values()) == [([1, 2, 3, 4, 5, 6], cmc.tolist())] and axis.get_title().endswith(
        ", 20 queries (mAP 60.0%)"
    )
    assert axis.get_ylim()[1] == 1 and not axis.texts
    similarity = np.array([[0.9, 0.1], [0.4, 0.8]])
    axis = similarity_chart(similarity, ["a", "b"]).axes[0]
    assert np.array_equal(axis.get_images()[0].get_array(), similarity)
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a", "b"]
    points = np.arange(8.0).reshape(4, 2)
    (axis,) = embedding_chart(points, ["a", "b", "a", "b"], np.array([True, False, False, False]), "PCA").axes
    assert np.array_equal(np.sort(np.concatenate([c.get_offsets() for c in axis.collections]), 0), points)


def ticks(axis):
    """The visible tick labels of an axis (x or y) that has been drawn, and its offset text."""
    axis.axes.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    labels = [t.label1.get_text() for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    return labels, axis.get_offset_text().get_text()


def test_ticks_have_their_values():
    axis = cmc_chart(np.array([0.895, 0.95, 1.0]), 0.9, 200).axes[0]
    labels, _ = ticks(axis.yaxis)
    steps = np.diff([float(label.removesuffix("%")) for label in labels])
    assert np.allclose(steps, steps[0]) and labels[-1] == "100.0%"
    one_epoch = [{"stage": 2, "epoch": 1, "loss": 1.0, "lr": 0.1, "accuracy": 0.5}]
    assert all(ticks(axis.xaxis)[0] == ["1"] for axis in training_curves(one_epoch, {}).axes)
    assert ticks(cmc_chart(np.array([1.0]), 1.0, 1).axes[0].xaxis)[0] == ["1"]


def test_charts_of_features_that_lie_close_together():
    generator = torch.Generator().manual_seed(0)
    pids = torch.arange(8).repeat(2)
    features = 1 + 0.005 * torch.randn(16, 32, generator=generator)
    metrics = verify(Features(features[:8], pids[:8], pids[:8]), Features(features[8:], pids[8:], pids[8:]))
    assert metrics.eer_threshold > 0.9999, "the scores lie close together"
    (histogram,) = score_chart(metrics, "cosine similarity").axes
    labels, offset = ticks(histogram.xaxis)
    assert not offset and len(set(labels)) == len(labels) > 2 and all(float(label) > 0.9999 for label in labels)
    (line,) = (label for label in drawn(histogram) if label.startswith("EER"))
    assert float(line.split()[-1]) == pytest.approx(metrics.eer_threshold, abs=1e-8)
    similarity = (
        torch.nn.functional.normalize(features[:8].double()) @ torch.nn.functional.normalize(features[8:].double()).T
    )
    cells, bar = similarity_chart(similarity.numpy(), [f"{n}_right_middle" for n in range(100, 108)]).axes
    shown = np.array([float(text.get_text()) for text in cells.texts])
    spread = similarity.max() - similarity.min()
    assert np.abs(shown - similarity.flatten().numpy()).max() < spread / 20
    labels, offset = ticks(bar.yaxis)
    assert not offset and len(set(labels)) == len(labels) > 2
    assert cells.get_xticklabels()[0].get_text() == "100_right_middle", "long names are shown where there is room"


def test_the_scale_of_equal_similarities_ends_at_them():
    cells, bar = similarity_chart(np.ones((2, 2)), ["a", "b"]).axes
    assert bar.get_ylim()[1] == 1 and {text.get_text() for text in cells.texts} == {"1.00000000"}


def test_a_figure_becomes_a_file(tmp_path):
    save_figure(training_curves(HISTORY, RESULTS), tmp_path / "new" / "curves.png")
    with Image.open(tmp_path / "new" / "curves.png") as image:
        assert image.format == "PNG" and image.width > 1000
        assert len(image.convert("RGB").getcolors(image.width * image.height)) > 10, "something is drawn"
