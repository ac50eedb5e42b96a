"""Warnings of Isaac Lab's own code, none of this project's doing."""

import pytest

THIRD_PARTY = (
    # Isaac Lab decorates its mathematics so; torch tells whoever imports it.
    "ignore:`torch.jit.script.*` is deprecated:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)
