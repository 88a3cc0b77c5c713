"""The command line: words in, a run id out."""
