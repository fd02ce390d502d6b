"""`freqrob models` and `freqrob doctor`: the installed models and kernels."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from freqrob.cli import options
from freqrob.cli.printing import print_table, print_warning, warnings_as_lines
from freqrob.runtime.parameters import pixels

if TYPE_CHECKING:
    from freqrob.models.cards import Card


def models(
    pattern: Annotated[str, typer.Argument(help='A shell-style pattern, in quotes: `"*bass*"`.')] = "*",
    model_dir: options.ModelDir = Path("models"),
) -> None:
    """List the models that `load_model` can load, including those of other packages, with their cards' accuracies.

    Examples:

    - `freqrob models`
    - `freqrob models "bass*" --model-dir ./models`
    """
    from freqrob.models.cards import CheckpointError
    from freqrob.models.loading import THREAT_MODELS, all_datasets, list_models, load_card

    with warnings_as_lines():
        known = [
            (name, dataset, threat)
            for dataset in all_datasets()
            for threat in THREAT_MODELS
            for name in list_models(pattern, dataset, threat, model_dir)
        ]
    if not known:
        raise FileNotFoundError(
            f"no model matches {pattern!r} in the package or in {model_dir}. Train one: freqrob train pgd_at_rn20"
        )
    table = Table("model", "protocol", "ε", "accuracy on its card (%)", "images")
    for name, dataset, threat in known:
        card = None
        try:
            with suppress(FileNotFoundError):
                card = load_card(name, model_dir, dataset, threat)
            origin = card.architecture if card else _origin(name, dataset, threat)
        except CheckpointError as error:
            print_warning(str(error))
            origin = "card not usable"
        results = _card_results(card) if card else [("", "", "", "")]
        about = f"{escape(name)}\n[dim]{escape(origin)}, {dataset}, {threat}[/dim]"
        columns = (escape("\n".join(column)) for column in zip(*results, strict=True))
        table.add_row(about, *columns, end_section=True)
    print_table(table)


def _origin(name: str, dataset: str, threat: str) -> str:
    """Describe a model without a card by its package, if it has one."""
    from freqrob.models.plugins import find_plugin

    plugin = find_plugin(name, dataset, threat)
    return f"of package {plugin.package}" if plugin else "no card"


def _card_results(card: Card) -> list[tuple[str, str, str, str]]:
    """One line per protocol and ball: ``("natural", "8/255", "clean 76.0, PGD-20 31.0", "10,000")``."""
    lines: dict[tuple[str, float, int], list[str]] = {}
    for result in card.results:
        same = [other for other in card.results if other.get("protocol") == result.get("protocol")]
        eps = result.get("eps") or next((other["eps"] for other in same if other.get("eps")), 0.0)  # clean: any ball
        key = (result.get("protocol", "?"), eps, result.get("images", 0))
        accuracy = f"{100 * result['accuracy']:.1f}" if "accuracy" in result else "?"
        lines.setdefault(key, []).append(f"{result.get('attack', '?')} {accuracy}")
    return [
        (protocol, pixels(eps, card.threat_model) if eps else "", ", ".join(shown), f"{count:,}")
        for (protocol, eps, count), shown in lines.items()
    ] or [("", "", "none", "")]


def doctor(rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild the kernels.")] = False) -> None:
    """Report whether the native kernels work and, if not, how to fix them.

    Examples:

    - `freqrob doctor`
    - `freqrob doctor --rebuild`
    """
    from freqrob.spectral import native

    typer.echo(native.doctor(rebuild))
