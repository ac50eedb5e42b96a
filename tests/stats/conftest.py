"""The command line's fixture."""

from tests.cli.conftest import cli  # noqa: F401
