"""Types, bounds and defaults of model fields in words, from JSON schemas."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from isentrope.rollout.units import in_words

Schema = Mapping[str, Any]

UNSET = "unset"

_WORDS = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": UNSET}
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def values_of(model: type[BaseModel]) -> dict[str, str]:
    """Return type and bounds of each field of a model."""
    whole = model.model_json_schema()
    definitions = whole.get("$defs", {})
    return {name: _words(schema, definitions) for name, schema in whole.get("properties", {}).items()}


def default_of(field: FieldInfo) -> str:
    """Return a field's default as a run file has it; empty if the field must be set."""
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    if value is None:
        return UNSET
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if not isinstance(value, dict) or value else "{}"


def _words(schema: Schema, definitions: Schema) -> str:
    if "$ref" in schema:
        return _words(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_words(each, definitions) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(json.dumps(each) for each in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array" if "prefixItems" in schema:
            return ", ".join(_words(each, definitions) for each in schema["prefixItems"])
        case "array":
            return f"list of {_words(schema.get('items', {}), definitions)}"
        case "object":
            held = schema.get("additionalProperties")
            return f"table of {_words(held, definitions)}" if isinstance(held, dict) else "table"
        case str(name):
            bounds = [f"{sign} {in_words(schema[key])}" for key, sign in _BOUNDS.items() if key in schema]
            pattern = f" like {schema['pattern']}" if "pattern" in schema else ""
            return f"{_WORDS[name]}{pattern} {', '.join(bounds)}".strip()
    return "any value"
