"""What to try next: whom to copy, how to move, what to draw. `advise.py` is the method itself."""
