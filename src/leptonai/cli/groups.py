"""Groups that load a command only when it is called, and help that shows an example."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
WHOLE_SENTENCE_CHARS = 300  # of what a command does: wrapped in a list of commands, not cut


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *arguments: Any, example: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_example(self.example, formatter)


class Group(click.Group):
    """A group of such commands."""

    def __init__(self, *arguments: Any, example: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_example(self.example, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (name, self.commands[name].get_short_help_str(WHOLE_SENTENCE_CHARS))
                    for name in self.list_commands(ctx)
                ]
            )

    def does(self, name: str, *, example: str, **options: Any) -> Callable[[F], Command]:
        """Make a function the command `name`; its docstring is the help."""

        def make(function: F) -> Command:
            made = click.command(name, cls=Command, example=example, **options)(function)
            self.add_command(made)
            return made

        return make


class LazyGroup(Group):
    """Knows its commands by name, module and one line of help."""

    def __init__(
        self, *arguments: Any, lazy: Mapping[str, tuple[str, str]], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self._lazy]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._lazy and name[:1].isalpha() and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = ", ".join(map(repr, get_close_matches(name, self._lazy)))
            meant = f" Did you mean {near}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self._lazy.items()])


def _write_example(example: str, formatter: click.HelpFormatter) -> None:
    with formatter.section("Examples" if "\n" in example else "Example"):
        for line in example.splitlines():
            formatter.write(f"  {line}\n")
