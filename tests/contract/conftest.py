"""The tests in ``inside`` run in environments with Isaac Lab, started by ``test_isaaclab``."""

import os

from tests.envs import INSIDE

collect_ignore = [] if os.environ.get(INSIDE) else ["inside"]
