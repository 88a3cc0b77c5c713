"""Who trains next, and what is done with the outcome."""
