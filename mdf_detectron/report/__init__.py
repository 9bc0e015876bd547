"""Tables, charts, images and HTML pages of results."""

CLASS_COLORS = ("#ffd54f", "#4fc3f7", "#aed581", "#ff8a65", "#ce93d8", "#f06292", "#90a4ae", "#fff176")
"""Of the boxes of each class, in order; a ninth has the first again."""
