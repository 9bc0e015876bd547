"""Vocabulary of the findings: the labels of the three reading phases, merged."""

from __future__ import annotations

MERGED_LABELS = {
    "Pleural thickening": "Pleural abnormality",
    "Pleural effusion": "Pleural abnormality",
    "Mass": "Lung nodule or mass",
    "Nodule": "Lung nodule or mass",
    "Emphysema": "High lung volume / emphysema",
}
"""Label of phase 1 → label of phases 2 and 3; nothing else merges."""

KNOWN_LABELS = (
    "Abnormal mediastinal contour", "Acute fracture", "Airway wall thickening", "Atelectasis", "Consolidation",
    "Enlarged cardiac silhouette", "Enlarged hilum", "Fibrosis", "Fracture", "Groundglass opacity", "Hiatal hernia",
    "High lung volume / emphysema", "Interstitial lung disease", "Lung nodule or mass", "Pleural abnormality",
    "Pneumothorax", "Pulmonary edema", "Support devices", "Wide mediastinum",
)  # fmt: skip
"""Labels after merging that an ellipse may carry (texts and image quality aside)."""
