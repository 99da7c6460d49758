"""The page docs/configuration.md, made from the Structs that hold the defaults: `python -m tidegauge.cli.config_reference`."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tidegauge.cli.toml_text import to_toml
from tidegauge.pipeline import registry
from tidegauge.pipeline.config import DEFAULT_SINKS, SECRET_KEYS, Config
from tidegauge.pipeline.options import RunnerOptions
from tidegauge.pipeline.remote_options import RemoteOptions

_HEAD = """# Configuration

Made from the code by `python -m tidegauge.cli.config_reference`; do not edit.

One TOML file: `--config FILE`, else `TIDEGAUGE_CONFIG`, else `~/.config/tidegauge/tidegauge.toml`, else
`/etc/tidegauge/tidegauge.toml`. No file is needed. A variable overrides a key of the file, with two underscores a level:
`TIDEGAUGE_SINKS__INFLUXDB__URL`; a flag overrides both: `--set sinks.influxdb.url=...`. Lists in variables are separated by
commas. Keys that end in `_s` are seconds, in `_bytes` bytes. Secrets (`token`, `password`) never stand in the file: give the
variable, or the key with `_file`. `tidegauge config check` names what is wrong;
`tidegauge config show` prints what is in force.
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, "## Top level\n", *_table(Config, skip=("collectors", "runtimes", "remotes", "sinks"))]
    for field in msgspec.structs.fields(Config):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            parts += [f"\n## `[{field.name}]`\n", *_table(field.type)]
    parts += [
        "\n## `[collectors.NAME]`\n",
        "Every installed collector runs unless its table says `enabled = false`. `proc`, `sys` and `rootfs` take the values of "
        "`[roots]` unless the table sets them.\n",
    ]
    for name in registry.available(registry.COLLECTORS):
        cls = registry.load(registry.COLLECTORS, name)
        if cls.__module__.startswith("tidegauge."):
            parts += [f"\n### `[collectors.{name}]`\n", f"{_summary(cls)}\n", *_table(cls.Config)]
    parts += [
        "\n## `[runtimes.NAME]`\n",
        "Every installed container runtime is recognised and asked unless its table says `enabled = false`; one that is not "
        "there costs nothing. `rootfs` takes the value of `[roots]` unless the table sets it.\n",
    ]
    for name in registry.available(registry.RUNTIMES):
        cls = registry.load(registry.RUNTIMES, name)
        if cls.__module__.startswith("tidegauge."):
            parts += [f"\n### `[runtimes.{name}]`\n", f"{_summary(cls)}\n", *_table(cls.Config)]
    parts += [
        "\n## `[remotes.NAME]`\n",
        "Another host, recorded beside this one, under a name of your choice; see [remotes](remotes.md). The keys of this "
        "table hold for every format, those of the format stand beside them.\n",
        *_table(RemoteOptions),
    ]
    for name in registry.available(registry.REMOTES):
        cls = registry.load(registry.REMOTES, name)
        if cls.__module__.startswith("tidegauge."):
            parts += [f'\n### `format = "{name}"`\n', f"{_summary(cls)}\n", *_table(cls.Config)]
    parts += [
        "\n## `[sinks.NAME]`\n",
        f"{' and '.join(f'`{n}`' for n in DEFAULT_SINKS)} run unless their table says `enabled = false`; any other runs when "
        "its table is there. With `plugin` one plug-in can run twice under two names. The keys of this table hold for every "
        "sink, those of the sink itself stand beside them.\n",
        *_table(RunnerOptions),
    ]
    for name in registry.available(registry.SINKS):
        cls = registry.load(registry.SINKS, name)
        if cls.__module__.startswith("tidegauge."):
            parts += [f"\n### `[sinks.{name}]`\n", f"{_summary(cls)}\n", *_table(cls.Config)]
    return "\n".join(parts).rstrip() + "\n"


def _summary(cls: type[Any]) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


def _table(struct: type[Any], skip: tuple[str, ...] = ()) -> Iterator[str]:
    fields = [
        f
        for f in msgspec.structs.fields(struct)
        if f.name not in (*skip, "groups") and not (isinstance(f.type, type) and issubclass(f.type, msgspec.Struct))
    ]
    if not fields:
        yield "No keys of its own."
        return
    docs = _docs(struct)
    yield "| key | default | meaning |"
    yield "| --- | --- | --- |"
    for field in fields:
        secret = " Only from the environment." if field.name in SECRET_KEYS else ""
        text = (docs.get(field.name, "") + secret).replace("|", "\\|")
        yield f"| `{field.name}` | {_default(field)} | {text} |"


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "(from the host)"
    if value is None:
        return ""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, dict) and not value:
        return "`{}`"
    return f"`{to_toml({'x': value if not isinstance(value, dict) else []}).removeprefix('x = ').strip()}`"


def _docs(struct: type[Any]) -> dict[str, str]:
    """Text below each field, as the source has it; those of a base class too."""
    out: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        if issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct:
            out |= _own_docs(cls)
    return out


def _own_docs(struct: type[Any]) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(struct)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    out = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
            value = after.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                out[node.target.id] = " ".join(value.value.split())
    return out


if __name__ == "__main__":
    print(reference(), end="")
