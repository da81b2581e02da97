"""``python -m unetari.cli``."""

from unetari.cli import app

app()
