"""`python -m freqrob`: the command line, for torchrun."""

from freqrob.cli import main

main()
