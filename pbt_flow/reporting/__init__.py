"""What a population looks like: as numbers, a page, a picture, a comparison, a study."""
