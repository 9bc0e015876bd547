"""What happens around the steps of a training: validation, best checkpoint, early stopping, the stop at NaN."""
