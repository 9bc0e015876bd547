"""No text of a chart is cut by the picture's edge."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from simulated import simulate

from mdf_detectron.evaluation.coco import Detections, GroundTruth
from mdf_detectron.evaluation.summary import Protocol, evaluate_models
from mdf_detectron.report.charts import all_charts

NAMES = ("Mask R-CNN", "MSF-Net (3D)", "MSF-Net (1D)", "A model whose name is as long as names of models become")


@pytest.fixture(scope="module")
def charts():
    annotations, models = simulate(40, 3, skills=(0.5, 1.0, 2.0, 3.0), num_classes=3)
    for n, image in enumerate(annotations["images"]):
        image["clinical"] = {"gender": "FM"[n % 2], "age": 30 + n}
    truth = GroundTruth.load(annotations)
    loaded = {name: Detections.load(found, truth) for name, found in zip(NAMES, models, strict=True)}
    return all_charts(evaluate_models(truth, loaded, Protocol(num_resamples=20))["models"])


def texts_of(figure):
    """Titles, labels, annotations and legends; tick labels may lie beyond their axis, and are not drawn then."""
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        if axes.get_legend():
            yield from axes.get_legend().findobj(Text)
    for legend in figure.legends:
        yield from legend.findobj(Text)


def test_every_text_lies_within_the_picture(charts):
    assert len(charts) > 6
    for name, figure in charts.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        width, height = canvas.get_width_height()
        for text in texts_of(figure):
            if text.get_visible() and text.get_text().strip():
                box = text.get_window_extent(canvas.get_renderer())
                inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
                assert inside, (name, text.get_text(), box.bounds, (width, height))
