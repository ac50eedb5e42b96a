# Shared by the scripts: find a Python, make or reuse a virtual environment inside the checkout.
# Source it from a script that has set -euo pipefail and stands in the checkout's root.

say() { printf '\n== %s\n' "$*"; }

die() {
  printf '\nFAILED: %s\n' "$*" >&2
  exit 1
}

# find_python VERSION...: path of the first Python of these minor versions that can make venvs.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in python3 "python$version" "$HOME"/.pyenv/versions/"$version"*/bin/python3; do
      if "$candidate" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1; then
        command -v "$candidate"
        return 0
      fi
    done
  done
  return 1
}

# make_venv FOLDER PYTHON [PIP ARGUMENTS...]: install, unless just this was installed before.
make_venv() {
  local folder=$1 python=$2
  shift 2
  # A stamp for each set of requirements: what one script installed serves the others, too.
  local stamp
  stamp=$(printf '%s\n' "$("$python" --version)" "$@" | cat - pyproject.toml constraints.txt | cksum)
  stamp=$folder/.installed-${stamp%% *}
  if [ -e "$stamp" ] && "$folder/bin/python" -c pass 2>/dev/null; then
    return 0
  fi
  say "installing into $folder (once; minutes)"
  "$python" -m venv "$folder" || die "$python cannot make a virtual environment in $folder"
  "$folder/bin/python" -m pip install -qq --disable-pip-version-check "$@" ||
    die "pip could not install: $*"
  touch "$stamp"
}

# numpy_venv VERSION PYTHON...: an environment that holds this NumPy alone, on the first of these
# Pythons that is there; else a line that says why not.
numpy_venv() {
  local version=$1 python series
  shift
  series=${version%.*}
  if ! python=$(find_python "$@"); then
    echo "SKIPPED: NumPy $version: none of Python $* was found"
  elif ! (make_venv ".venv-numpy${series//./}" "$python" --only-binary :all: "numpy==$version"); then
    echo "SKIPPED: NumPy $version could not be installed, see above"
  fi
}

# main_venv: .venv with everything that demo and tests need; sets $PYTHON.
main_venv() {
  local base
  base=${MOSAIC_COLLECT_PYTHON:-$(find_python 3.11 3.12 3.13)} ||
    die "no Python 3.11, 3.12 or 3.13 with venv and pip was found"
  make_venv .venv "$base" -c constraints.txt -e ".[$1]"
  PYTHON=$PWD/.venv/bin/python
}
