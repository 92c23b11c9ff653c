"""`python -m saot.cli`, as `accelerate launch -m saot.cli` calls it."""

from saot.cli import main

main()
