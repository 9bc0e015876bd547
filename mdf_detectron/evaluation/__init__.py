"""Evaluation: metric maths are pure functions on arrays; evaluators and command lines are thin layers over them."""

from mdf_detectron.evaluation.coco_metrics import evaluate_coco
from mdf_detectron.evaluation.cxr_evaluator import CXREvaluator

__all__ = ["CXREvaluator", "evaluate_coco"]
