"""Studies: train many models at one budget and compare them in one report."""
