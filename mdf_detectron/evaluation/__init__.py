"""Evaluation: metric maths are pure functions on arrays; evaluators and command lines are thin layers over them."""

from mdf_detectron.evaluation.evaluator import CXREvaluator
from mdf_detectron.evaluation.metrics import evaluate_coco

__all__ = ["CXREvaluator", "evaluate_coco"]
