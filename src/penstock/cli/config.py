"""`penstock config`."""

from __future__ import annotations

import typer

from penstock.cli.options import ConfigOption, DeviceOption, JsonOption, RegistryOption
from penstock.cli.output import print_json, print_table

app = typer.Typer(help="The settings in force.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """The settings in force."""


@app.command()
def show(
    config: ConfigOption = None,
    registry: RegistryOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print every setting, its value and where the value came from; passwords are masked."""
    from penstock.settings import display, load_settings

    loaded = load_settings({"registry": registry, "device": device}, config_file=config)
    values = {name: display(name, getattr(loaded.settings, name)) for name in loaded.sources}
    if as_json:
        print_json({name: {"value": value, "source": loaded.sources[name]} for name, value in values.items()})
        return
    if values["workers"] == "auto":
        from penstock.backends.devices import worker_count

        values["workers"] = f"auto ({worker_count('auto')} here)"
    rows = ((name, _shown(value), loaded.sources[name]) for name, value in values.items())
    print_table(("setting", "value", "from"), rows)


def _shown(value: object) -> str:
    if value is None or value in ((), {}):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
