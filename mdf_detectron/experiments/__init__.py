"""Many trainings at one budget, compared in one table."""
