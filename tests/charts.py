"""Blank charts: drawing takes two thirds of a run on toy hands, and few tests look at what a run has drawn."""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

draw = FigureCanvasAgg.print_png


def leave_blank(self, file, **settings):
    """In place of :func:`draw`: a PNG of one colour."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    file.write(content.getvalue())


def use(function):
    """Write the charts of this process with ``function``: :func:`draw` or :func:`leave_blank`."""
    FigureCanvasAgg.print_png = function
