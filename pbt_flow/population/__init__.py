"""What a population is and has done: its records, their files, and what follows from them."""
