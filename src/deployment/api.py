"""The front door: `app` for an ASGI server, and a script that serves it.

`python src/deployment/api.py` and `uvicorn src.deployment.api:app` both start here.
"""

import sys

if __name__ == "__main__":
    # Run as a script, this folder stands first on the path, and its modules before everybody else's.
    sys.path[0] = __file__.rpartition("/deployment/")[0] or "src"

from deployment.app import create_app, serve
from deployment.errors import RamseyError
from deployment.settings import load


def fail(error: RamseyError) -> "None":
    """End with what is wrong and what to do, not with a traceback."""
    sys.exit(f"{error.message}\n{error.hint}" if error.hint else error.message)


try:
    app = create_app(load())
except RamseyError as problem:
    fail(problem)

if __name__ == "__main__":
    try:
        serve(app)
    except RamseyError as problem:
        fail(problem)
