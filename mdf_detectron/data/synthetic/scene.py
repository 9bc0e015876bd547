"""Draw a schematic frontal radiograph: thorax, lungs, ribs, spine, heart and findings."""

import cv2
import numpy as np

from mdf_detectron.data.synthetic.cohort import Finding, Radiograph

THORAX_CENTER, THORAX_HALF_WIDTH = (0.5, 0.52), 0.42
"""Fractions of the image; the cardiothoracic ratio refers to twice the half width."""
_HEART_HALF_HEIGHT = 0.15
_HEART_CENTER = (0.53, 0.60)


def draw_radiograph(radiograph: Radiograph) -> np.ndarray:
    """Draw a (height, width) uint8 image, bright where tissue is dense; deterministic by its seed."""
    rng = np.random.default_rng(radiograph.seed)
    y, x = np.mgrid[0 : radiograph.height, 0 : radiograph.width].astype(np.float32)
    x, y = (x + 0.5) / radiograph.width, (y + 0.5) / radiograph.height
    pixels = _anatomy(x, y, radiograph.cardiothoracic_ratio, rng)
    for finding in radiograph.findings:
        pixels += _opacity(x, y, finding)
    pixels += _noise(pixels.shape, rng)
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def heart_ellipse(cardiothoracic_ratio: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return center and radii of the heart as fractions of the image."""
    return _HEART_CENTER, (cardiothoracic_ratio * THORAX_HALF_WIDTH, _HEART_HALF_HEIGHT)


def ellipse_box(center, radii, width: int, height: int) -> list[float]:
    """Return the box [x, y, w, h] in pixels around an ellipse given in fractions of the image."""
    (cx, cy), (rx, ry) = center, radii
    return [(cx - rx) * width, (cy - ry) * height, 2 * rx * width, 2 * ry * height]


def ellipse_polygon(center, radii, width: int, height: int, points: int = 32) -> list[float]:
    """Return the ellipse as a flat polygon [x1, y1, x2, y2…] in pixels."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    xs = (center[0] + radii[0] * np.cos(angles)) * width
    ys = (center[1] + radii[1] * np.sin(angles)) * height
    return np.stack([xs, ys], axis=1).round(2).ravel().tolist()


def _distance(x, y, center, radii):
    """Return the normalized distance: 0 at the center, 1 on the ellipse."""
    return np.sqrt(((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2)


def _inside(x, y, center, radii, softness: float):
    """Return 1 inside the ellipse, 0 outside, with a smooth edge."""
    return 1 / (1 + np.exp(np.clip((_distance(x, y, center, radii) - 1) / softness, -30, 30)))


def _anatomy(x, y, ratio: float, rng: np.random.Generator) -> np.ndarray:
    thorax = _inside(x, y, THORAX_CENTER, (THORAX_HALF_WIDTH + 0.06, 0.56), 0.03)
    radiograph = 0.05 + 0.50 * thorax
    lean = rng.uniform(-0.01, 0.01)
    lungs = np.zeros_like(radiograph)
    for cx in (0.30, 0.70):
        lungs = np.maximum(lungs, _inside(x, y, (cx + lean, 0.48), (0.175, 0.36), 0.05))
    radiograph -= 0.38 * lungs
    # ribs: arcs that fall away from the spine
    phase = rng.uniform(0, 2 * np.pi)
    arcs = np.sin((y - 0.9 * (np.abs(x - 0.5) - 0.2) ** 2) * 2 * np.pi * 9 + phase)
    radiograph += 0.045 * np.clip(arcs, 0, 1) * lungs
    radiograph += 0.16 * np.exp(-(((x - 0.5) / 0.035) ** 2)) * thorax
    radiograph += 0.36 * _inside(x, y, *heart_ellipse(ratio), 0.05) * (0.35 + 0.65 * lungs)
    return radiograph


def _opacity(x, y, finding: Finding) -> np.ndarray:
    """Return the brightness that a finding adds: compact for archetype A, hazy for B, with the cue of its class."""
    (cx, cy), (rx, ry) = finding.center, finding.radii
    r = _distance(x, y, finding.center, finding.radii)
    u, v = (x - cx) / rx, (y - cy) / ry
    if finding.archetype == "A":
        body = 0.42 * _inside(x, y, finding.center, finding.radii, 0.10)
        cues = {
            "Consolidation": -0.30 * (np.abs(np.sin(4.0 * (u + v))) < 0.45) * (r < 0.85),
            "Atelectasis": 0.30 * (np.abs(v) < 0.28) * (r < 0.95),
            "none": -0.34 * (r < 0.55),
            "core": 0.32 * (r < 0.65),
            "slit": -0.36 * (np.abs(u) < 0.35) * (r < 0.95),
        }
    else:
        body = 0.30 * _inside(x, y, finding.center, finding.radii, 0.16)
        cues = {
            "Pulmonary edema": 0.24 * (np.sin(10.0 * u) > 0.35) * (r < 0.9),
            "Pleural abnormality": 0.26 * (v > 0.15) * (r < 0.95),
            "none": -0.26 * (r < 0.5),
            "core": 0.26 * (r < 0.5),
            "slit": -0.26 * (np.abs(u) < 0.2) * (r < 0.95),
        }
    if finding.signs is None:
        return body + cues.get(finding.appearance, 0.0)
    core, _, faint = finding.signs
    return (0.6 if faint else 1.0) * (body + cues["core" if core else "slit"])


def _noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    coarse = rng.normal(0, 1, (12, 12)).astype(np.float32)
    coarse = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return 0.025 * coarse + 0.02 * rng.normal(0, 1, shape).astype(np.float32)
