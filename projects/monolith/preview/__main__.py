"""`python -m preview` is `monolith`."""

from preview.cli import main

main(prog_name="monolith")
