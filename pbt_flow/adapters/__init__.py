"""What people train with already, as tasks: a file for each library, imported by who uses it."""
