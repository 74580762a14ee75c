"""How a command ended, for scripts."""

DONE = 0
BUG = 1
USAGE = 2
BAD_INPUT = 3
FILE_SKIPPED = 4
MISMATCH = 5
KAFKA = 6
OUTPUT = 7
INTERRUPTED = 8
