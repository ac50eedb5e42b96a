#!/usr/bin/env bash
# Installs what the tests need into virtual environments inside the checkout, and passes them:
# lint, types, the tests, and the torch-free core on the oldest Python and NumPy and on the newest.
# What has no interpreter or package index to run with is skipped and says so.
# --quick: lint, types, and the tests of the core that need neither a simulator nor seconds each.
# Other arguments go to pytest; with any, only pytest runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

main_venv test,replay,bench
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE=disabled MOSAIC_COLLECT_TEST_SH=1
if [ $# -gt 0 ] && [ "$1" != --quick ]; then
  exec "$PYTHON" -m pytest "$@"
fi

jobs=${MOSAIC_COLLECT_JOBS:-2}
say "lint"
"$PYTHON" -m ruff check . || die "ruff check"
"$PYTHON" -m ruff format --check . || die "ruff format: run it without --check"
"$PYTHON" scripts/words.py || die "texts: see scripts/words.py --list"
say "types"
"$PYTHON" -m mypy || die "mypy"
if [ "${1-}" = --quick ]; then
  say "quick tests"
  exec "$PYTHON" -m pytest -q -n "$jobs" --dist loadgroup -m "not slow and not sim and not network" \
    tests/test_house.py tests/test_checks.py tests/store tests/reading tests/npyfile tests/export \
    tests/importing tests/cli tests/look tests/collection
fi

say "the NumPy versions that load exports: the oldest supported, and Isaac Sim's"
numpy_venv 1.21.6 3.10 3.9 3.8 3.7
numpy_venv 1.26.0 3.10 3.11 3.12

say "Python 3.10 with NumPy 1.26, without torch and zarr"
if py310=$(find_python 3.10); then
  make_venv .venv-py310 "$py310" "numpy==1.26.4" "pytest>=8" "pytest-xdist>=3.5" \
    "hypothesis>=6.100" "moto[server]>=5.2,<5.3" -e ".[objects]"
  .venv-py310/bin/python -m pytest -q -n "$jobs" tests/store tests/reading tests/recording tests/npyfile tests/export || die "the tests on Python 3.10"
else
  echo "SKIPPED: no Python 3.10 was found"
fi

say "the newest Python, NumPy, zarr and xarray, without torch"
if newest=$(find_python 3.13 3.12); then
  make_venv .venv-newest "$newest" "pytest>=8" "pytest-xdist>=3.5" "hypothesis>=6.100" \
    dask tensorstore zarrs -e ".[analysis]"
  .venv-newest/bin/python -m pytest -q -n "$jobs" tests/store tests/reading tests/recording \
    tests/npyfile tests/export tests/importing tests/cli tests/conformance \
    tests/test_numpys_arguments.py || die "the tests on the newest Python"
else
  echo "SKIPPED: no Python 3.13 or 3.12 was found"
fi

say "zarrita, for reading stores in Node and in a browser"
(cd tests/conformance/zarrita && npm install --silent --no-audit --no-fund --no-package-lock) ||
  echo "SKIPPED: npm could not install it"

say "environments for the rsl_rl generations and Isaac Lab's wheels"
"$PYTHON" -m tests.envs || echo "some could not be made: their tests skip, with the reason"

say "tests"
"$PYTHON" -m pytest -q -n "$jobs" --dist loadgroup --durations=15 || die "the tests"
