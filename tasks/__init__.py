"""The tasks that come with pbt_flow, one file each, to be read from top to bottom."""
