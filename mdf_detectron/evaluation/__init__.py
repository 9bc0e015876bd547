"""Evaluation: metric maths are pure functions on arrays; the evaluator and command lines are thin layers over them.

Only :mod:`~mdf_detectron.evaluation.evaluator` needs detectron2; it is imported by itself.
"""

from mdf_detectron.evaluation.scoring import evaluate_coco

__all__ = ["evaluate_coco"]
