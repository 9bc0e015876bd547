"""Tables, charts, images and HTML pages of results."""

CLASS_COLORS = ("#ffd54f", "#4fc3f7", "#aed581", "#ff8a65", "#ce93d8", "#f06292", "#90a4ae", "#fff176")
"""Box colors of the classes, reused from the ninth on."""
