"""Small datasets for the evaluation's tests: by hand, and random ones for hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

NAMES = ("effusion", "mass", "never seen")


def dataset(boxes, num_images=2, names=NAMES, size=(100, 100)):
    """COCO annotations; ``boxes``: (image id, category id, box, iscrowd) tuples; ids start at 1."""
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.png", "height": size[0], "width": size[1]} for i in range(num_images)
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": c, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(boxes)
        ],
    }


def results(detections):
    """COCO results; ``detections``: (image id, category id, box, score) tuples."""
    return [{"image_id": i, "category_id": c, "bbox": list(box), "score": s} for i, c, box, s in detections]


def random_case(seed, num_images=4, num_classes=3, max_boxes=4, max_detections=6, crowds=True):
    """(annotations, results) on a coarse grid: ties in score and overlap, crowds, empty images and classes."""
    rng = np.random.default_rng(seed)

    def box():
        return [*(10 * rng.integers(0, 4, 2)).tolist(), *(10 * rng.integers(1, 5, 2)).tolist()]

    boxes, detections = [], []
    for image in range(1, num_images + 1):
        healthy = rng.random() < 0.25
        for _ in range(0 if healthy else rng.integers(0, max_boxes + 1)):
            crowd = int(crowds and rng.random() < 0.2)
            boxes.append((image, int(rng.integers(1, num_classes)), box(), crowd))
        for _ in range(rng.integers(0, max_detections + 1)):
            near = [r for r in boxes if r[0] == image]
            if near and rng.random() < 0.6:
                _, category, at, _ = near[rng.integers(len(near))]
                at = [at[0], at[1], max(10, at[2] - 10 * int(rng.integers(0, 2))), at[3]]
            else:
                category, at = int(rng.integers(1, num_classes + 1)), box()
            detections.append((image, category, at, float(rng.integers(1, 8)) / 8))
    names = [f"class {k}" for k in range(num_classes)]
    return dataset(boxes, num_images, names), results(detections)


random_cases = st.builds(random_case, st.integers(0, 2**32 - 1))
