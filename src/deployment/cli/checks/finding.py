"""What a check found, and what several checks ask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deployment.errors import RamseyError
from deployment.modelfile import load as load_modelfile
from deployment.settings import Settings

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `mend` is empty where all is well."""

    name: str
    state: State
    text: str
    mend: str = ""


def weights_size(settings: Settings) -> int:
    """Bytes of the weights that the Modelfile names; 0 where that cannot be told."""
    try:
        path = load_modelfile(settings.model.modelfile).from_path if settings.model.modelfile else None
        return path.stat().st_size if path else 0
    except (RamseyError, OSError):
        return 0


def logs(settings: Settings) -> Path:
    """Where the logs are."""
    return settings.data_dir / "logs"
