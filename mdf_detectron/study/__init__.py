"""Studies: many trainings on the synthetic set at one budget, compared in one table."""
