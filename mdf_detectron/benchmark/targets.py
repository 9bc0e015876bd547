"""What the clinical branch may cost, and what it was measured to cost."""

from __future__ import annotations

from dataclasses import dataclass

from mdf_detectron.benchmark.timing import Ratio

TRAINING, INFERENCE, MEMORY = "training step", "inference", "peak memory of a training step"


@dataclass(frozen=True)
class Target:
    """A ratio that should not be exceeded."""

    name: str
    reference: str
    measure: str
    limit: float


TARGETS = (
    Target("deconv", "plain", TRAINING, 0.70),
    Target("deconv_compiled", "plain", TRAINING, 0.55),
    Target("deconv_bfloat16", "plain", TRAINING, 0.45),
    Target("deconv_compiled_bfloat16", "plain", TRAINING, 0.45),
    Target("deconv", "plain", INFERENCE, 0.40),
    Target("compact", "image_only", TRAINING, 1.15),
    Target("compact", "image_only", INFERENCE, 1.15),
    Target("deconv", "plain", MEMORY, 1.0),
    Target("deconv_checkpoint", "plain", MEMORY, 0.5),
)


def table(ratios: dict[tuple[str, str, str], Ratio]) -> str:
    """Markdown: every target that was measured, its ratio with quartiles, and whether it was reached."""
    lines = ["| variant | against | measure | target | ratio (quartiles) | |", "|---|---|---|---|---|---|"]
    for t in TARGETS:
        r = ratios.get((t.name, t.reference, t.measure))
        if r is not None:
            reached = "reached" if r.median <= t.limit else "missed"
            spread = f"{r.median:.2f} ({r.low:.2f}–{r.high:.2f})"
            lines.append(f"| {t.name} | {t.reference} | {t.measure} | ≤ {t.limit:.2f} | {spread} | {reached} |")
    return "\n".join(lines)
