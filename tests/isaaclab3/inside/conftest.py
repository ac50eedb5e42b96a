"""Warnings of Isaac Lab's and Newton's own code, none of this project's doing."""

import pytest

THIRD_PARTY = (
    "ignore:`torch.jit.script.*` is deprecated:DeprecationWarning",
    "ignore:warp.config.quiet is deprecated:DeprecationWarning",
    "ignore:newton.actuators.Clamping is deprecated:DeprecationWarning",
    "ignore:Newton shape color replacement:FutureWarning",
    "ignore:Articulation.set_joint_position_target_index is deprecated:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for line in THIRD_PARTY:
        config.addinivalue_line("filterwarnings", line)
