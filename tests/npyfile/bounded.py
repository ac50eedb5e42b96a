"""Code that looks at files made to harm, with bounds, as they may hang or kill it.

Each file has a process of its own, forked off one that has imported what is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests import helpers

_EACH = """
import contextlib, io, json, os, resource, signal, sys, warnings

warnings.simplefilter("ignore")  # of forking

def bounded(path, out):
    # Both kill by default, in C code, too; time on a busy machine is no sign of harm.
    signal.alarm(400)
    resource.setrlimit(resource.RLIMIT_CPU, (20, 30))
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    try:
        told = tell(path)
    except BaseException as error:
        told = f"raised {type(error).__name__}"
    os.write(out, told.encode())

found = {}
for name in sys.argv[1:]:
    source, out = os.pipe()
    child = os.fork()
    if not child:
        bounded(name, out)
        os._exit(0)
    os.close(out)
    with open(source) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status)
    hung = killed in (signal.SIGALRM, signal.SIGXCPU)
    found[name] = "hung" if hung else f"signal {killed}" if killed else told
print(json.dumps(found))
"""


def told_of(folder: Path, code: str) -> dict[str, str]:
    """File names without ``.npy`` -> what ``tell(path)``, which the code defines, returns of it.

    Or that it raised, hung, or by which signal it ended.
    """
    paths = sorted(str(path) for path in folder.glob("*.npy"))
    done = helpers.run_python(code + _EACH, *paths, timeout=500)
    assert done.returncode == 0, done.stderr
    return {Path(path).stem: told for path, told in json.loads(done.stdout).items()}
