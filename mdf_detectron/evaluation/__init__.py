"""Evaluation: metric maths are pure functions on arrays; the evaluator and command lines are thin layers over them.

Only :mod:`~mdf_detectron.evaluation.evaluator` needs detectron2, so it is imported when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from mdf_detectron.evaluation.scoring import evaluate_coco

if TYPE_CHECKING:
    from mdf_detectron.evaluation.evaluator import CXREvaluator

__all__ = ["CXREvaluator", "evaluate_coco"]


def __getattr__(name: str) -> Any:
    if name == "CXREvaluator":
        from mdf_detectron.evaluation.evaluator import CXREvaluator

        return CXREvaluator
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
