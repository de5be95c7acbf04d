"""Many models priced into one table."""
