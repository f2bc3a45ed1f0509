"""``coriolis completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that completes commands and options.

    \b
      bash:  coriolis completion bash > ~/.local/share/bash-completion/completions/coriolis
      zsh:   coriolis completion zsh > "${fpath[1]}/_coriolis"
      fish:  coriolis completion fish > ~/.config/fish/completions/coriolis.fish
    """
    from coriolis.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(cli, {}, "coriolis", "_CORIOLIS_COMPLETE").source())
