"""Shows a population: as numbers, a page, a picture, a comparison, or an Optuna study."""
