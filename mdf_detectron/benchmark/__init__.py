"""Speed and memory of the model family, measured side by side."""
