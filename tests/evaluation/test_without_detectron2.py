"""Metric maths need NumPy, SciPy and pycocotools only: they compute where detectron2 and torch are absent."""

import subprocess
import sys

SCRIPT = """
import sys

class Absent:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("detectron2", "torch", "torchvision", "timm"):
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)

    def invalidate_caches(self):
        pass

sys.meta_path = [Absent(sys.meta_path)]

from mdf_detectron.data import splits
from mdf_detectron.evaluation import coco, counts, estimates, evaluate_coco, froc, matching, metrics
from mdf_detectron.evaluation import scoring, statistics, subgroups, summary

truth = {"images": [{"id": 1, "height": 9, "width": 9, "file_name": "a.png"}], "categories": [{"id": 1, "name": "a"}],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}]}
found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "score": 0.5}]
assert evaluate_coco(truth, found)["bbox"]["AP"] > 99.9
loaded = coco.GroundTruth.load(truth)
detections = coco.Detections.load(found, loaded)
assert summary.summarize(loaded, detections, summary.Protocol(num_resamples=2))["counts"]["bbox"]["a"]["tp"] == 1
assert not {"detectron2", "torch"} & {name.partition(".")[0] for name in sys.modules}
try:
    from mdf_detectron.evaluation.evaluator import CXREvaluator
except ImportError as error:
    print(error)
"""


def test_metric_maths_need_no_detectron2():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "detectron2" in done.stdout or "torch" in done.stdout  # the evaluator itself needs them
