"""The list of the shipped models: read without torch and without any file of weights."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..errors import ModelError
from ..options import MODEL_SUFFIX
from ..resources import resource_folder
from .info import ModelInfo, require

LIST_NAME = "models.json"
SCHEMA = 1


@dataclass(frozen=True)
class ModelFile:
    """A model and where it lies."""

    info: ModelInfo = field(hash=False)
    path: Path
    sha256: str
    """What the list of models promises; of a file that is in no list, what it was when it was found."""

    def to_dict(self) -> dict[str, Any]:
        """What it says of itself and its file, with the size in bytes, as plain values for JSON."""
        size = self.path.stat().st_size if self.path.is_file() else None
        return {"file": str(self.path), "size": size, "sha256": self.sha256, **self.info.to_dict()}


def list_models(folder: Optional[Path] = None) -> list[ModelFile]:
    """The models that come with the program, or those of another folder, from its ``models.json``.

    Raises ModelError if that file is missing, not JSON, of another schema, or an entry of it is wrong.
    """
    folder = resource_folder("Models") if folder is None else folder
    path = folder / LIST_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"The list of models {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"The list of models {path} is not valid JSON: {error}.") from error
    require_schema(document, f"The list of models {path}")
    entries = document.get("models")
    require(isinstance(entries, list), "models", f"a list in {path}", entries)
    models = [_listed_model(entry, folder) for entry in entries]
    _require_unique([model.info.name for model in models], path)
    return models


def _listed_model(entry: Any, folder: Path) -> ModelFile:
    require(isinstance(entry, dict), "An entry of the list of models", "an object", entry)
    values = dict(entry)
    file, sha256 = str(values.pop("file", "")), str(values.pop("sha256", ""))
    # A plain file name: a list must not point outside its folder.
    plain = file.endswith(MODEL_SUFFIX) and not re.search(r"[/\\:]", file)
    require(plain, "file in the list of models", f"the name of a {MODEL_SUFFIX} file", file)
    is_hash = re.fullmatch("[0-9a-f]{64}", sha256) is not None
    require(is_hash, f"sha256 of {file}", "64 hexadecimal digits", sha256)
    return ModelFile(ModelInfo.from_mapping(values), folder / file, sha256)


def require_schema(document: Any, what: str) -> None:
    """Raise ModelError unless a document is of the schema that this program writes."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ModelError(f"{what} is not of schema {SCHEMA}; it was made by another version of the program.")


def _require_unique(names: list[str], path: Path) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ModelError(f"The list of models {path} has the name “{twice[0]}” more than once.")
