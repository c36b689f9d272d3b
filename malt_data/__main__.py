"""`python -m malt_data` is `malt-data`."""

from malt_data.cli import main

main(prog_name="malt-data")
