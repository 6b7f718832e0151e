"""As much of JSON Schema as ours use: enough to hold a document against one."""

from __future__ import annotations

from typing import Any

KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "type", "enum", "required",
    "additionalProperties", "properties", "items",
}  # fmt: skip
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def mistakes(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """List where a value is not what the schema says; refuses a schema that says more."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return mistakes(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, at)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r} of {schema['enum']}"]
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not isinstance(value, tuple(one for name in names for one in TYPES[name])):
        return [f"{at}: {value!r} is no {names}"]
    found: list[str] = []
    if isinstance(value, dict):
        properties = schema["properties"]
        found += [f"{at}: no {name}" for name in schema["required"] if name not in value]
        found += [f"{at}: {name} is unknown" for name in value if name not in properties]
        for name in value.keys() & properties.keys():
            found += mistakes(value[name], properties[name], root, f"{at}.{name}")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += mistakes(item, schema["items"], root, f"{at}[{index}]")
    return found
