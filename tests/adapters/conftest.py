"""The tests in ``inside`` run in other environments, started by ``test_generations``."""

import os

from tests.envs import INSIDE

collect_ignore = [] if os.environ.get(INSIDE) else ["inside"]
