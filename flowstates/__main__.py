"""`python -m flowstates`."""

from flowstates.cli import main

main()
