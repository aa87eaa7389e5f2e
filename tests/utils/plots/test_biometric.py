"""Charts of error rates."""

import numpy as np
import pytest

from utils.plots.biometric import rate_chart
from utils.plots.curves import save_figure

pytestmark = pytest.mark.usefixtures("drawn_charts")


@pytest.mark.parametrize("chart", ["det"])
def test_a_chart_without_errors_is_drawn(tmp_path, chart):
    """No false accept without a false reject: no point has a place on two logarithmic axes."""
    far, frr = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    save_figure(rate_chart(chart, [("all", far, frr)]), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_a_short_logarithmic_axis_is_labelled_in_percent():
    far = np.geomspace(0.005, 1, 50)
    figure = rate_chart("open_set", [("rank 1", far, 1 - 0.3 * far)])
    figure.canvas.draw()
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels(which="minor")} - {""}
    assert {"70%", "80%", "90%"} <= labels and all(text.endswith("%") for text in labels)


def test_templates_have_a_tick_for_each_size():
    sizes = np.array([1.0, 2.0, 4.0])
    axis = rate_chart("templates", [("EER", sizes, sizes), ("1 - Rank-1", sizes, sizes)]).axes[0]
    assert axis.get_xticks().tolist() == [1, 2, 4]


def test_the_fused_line_stands_out_without_colour():
    rates = np.geomspace(0.01, 1, 20)
    axis = rate_chart("fusion", [(name, rates, 1 - rates) for name in ("left", "right", "all 2 fused")]).axes[0]
    *alone, fused = axis.get_lines()
    assert fused.get_linestyle() == "-" and fused.get_color() == "black"
    assert fused.get_linewidth() > max(line.get_linewidth() for line in alone)
