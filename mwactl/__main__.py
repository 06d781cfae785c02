"""`python -m mwactl` is `mwactl`."""

from mwactl.cli import main

main()
