"""One module for each command of `stream-curate`: flags in, library called, outcome shown."""
