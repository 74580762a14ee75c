"""`python -m stream_curate` is the command line too."""

from stream_curate.cli import main

main()
