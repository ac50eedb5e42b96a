"""``test_isaaclab3`` runs the tests in ``inside`` in the environment with Isaac Lab 3."""

import os

from tests.envs import INSIDE

collect_ignore = [] if os.environ.get(INSIDE) else ["inside"]
