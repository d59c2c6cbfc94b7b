"""`python -m flowstates.cli`."""

from flowstates.cli import main

main()
