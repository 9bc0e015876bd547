"""Evaluation: metrics are pure functions on arrays; the evaluator and commands are thin layers over them.

Only :mod:`~mdf_detectron.evaluation.evaluator` needs detectron2, so it is imported separately.
"""

from mdf_detectron.evaluation.scoring import evaluate_coco

__all__ = ["evaluate_coco"]
