"""The command `ramsey`. Verbs import what they need when they run, so that the command itself starts at once."""

import sys

from deployment.errors import ConfigurationError, RamseyError

__all__ = ["main"]

_FAILED, _WRONG, _INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run the command line. Exit status: 0 well, 1 failed, 2 wrong usage or settings, 130 interrupted."""
    from deployment.cli.output import show_error, show_unexpected
    from deployment.cli.root import app

    debug, as_json = "--debug" in sys.argv, "--json" in sys.argv
    try:
        app(prog_name="ramsey")
    except RamseyError as error:
        if debug:
            raise
        show_error(error, as_json=as_json)
        sys.exit(_WRONG if isinstance(error, ConfigurationError) else _FAILED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: no more words about it
        sys.exit(_FAILED)
    except Exception as error:
        if debug:
            raise
        show_unexpected(error, as_json=as_json)
        sys.exit(_FAILED)
