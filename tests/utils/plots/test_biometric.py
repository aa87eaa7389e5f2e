"""Charts of error rates."""

import numpy as np
import pytest

from utils.plots.biometric import rate_chart
from utils.plots.curves import save_figure


@pytest.mark.parametrize("chart", ["det"])
def test_a_chart_without_errors_is_drawn(tmp_path, chart):
    """No false accept without a false reject: no point has a place on two logarithmic axes."""
    far, frr = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    save_figure(rate_chart(chart, [("all", far, frr)]), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000
