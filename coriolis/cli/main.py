"""``coriolis``: finds the command that was asked for and imports only that one."""

from __future__ import annotations

import importlib
import sys

import click

from coriolis import __version__
from coriolis.cli.exits import EXIT_CODES_HELP, FAILURES, Exit, report

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("coriolis.cli.up:up", "Run everything on this machine: etcd, coordinator, gateway, two agents."),
    "migration": ("coriolis.cli.migrations:migration", "Create, follow, cancel and delete migrations."),
    "plan": (
        "coriolis.cli.plan:plan",
        "Say how networks and storage of a migration would be mapped, and what is missing.",
    ),
    "verify": ("coriolis.cli.verify:verify", "Re-read the volumes of a finished migration."),
    "inspect": ("coriolis.cli.inspect_guest:inspect", "Say what a machine's guest is and what conversion would do."),
    "manifest": ("coriolis.cli.manifests:manifest", "See and check what both agents signed of each disk."),
    "limit": ("coriolis.cli.limits:limit", "Limit bandwidth per agent, link and migration, by a weekly calendar."),
    "secret": ("coriolis.cli.secrets:secret", "Store connection infos, to be named instead of repeated."),
    "link": ("coriolis.cli.links:link", "See how sites reach each other: path, round trip, speed, limit."),
    "agent": ("coriolis.cli.agents:agent", "Run an agent, or list agents."),
    "coordinator": ("coriolis.cli.coordinators:coordinator", "Run a coordinator, or list coordinators."),
    "gateway": ("coriolis.cli.gateway_role:gateway", "Run a REST gateway."),
    "catalog": ("coriolis.cli.catalog:catalog", "Enter the service into Keystone's catalog, or take it out."),
    "user": ("coriolis.cli.users:user", "Keep the users file of the embedded identity."),
    "pki": ("coriolis.cli.pki:pki", "Make the mesh's CA and certificates."),
    "completion": ("coriolis.cli.completion:completion", "Print a script that completes commands in a shell."),
}


class LazyGroup(click.Group):
    """Knows names and one line of help of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as missing:
            extra = " (install coriolis-mesh[gateway])" if cmd_name in ("gateway", "user") else ""
            raise click.UsageError(f"'{cmd_name}' is not part of this installation: {missing}{extra}") from missing
        command: click.Command = getattr(module, attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES_HELP,
)
@click.version_option(__version__, prog_name="coriolis")
def cli() -> None:
    """Migrate virtual machines between clouds.

    \b
    First steps, on one machine:
      coriolis up --data-dir mesh                 # leave it running
      source mesh/admin-openrc                    # in another shell
      coriolis agent list
      coriolis migration create --file wave1.yaml --wait

    Commands that talk to a gateway take OS_AUTH_URL, OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME,
    OS_USER_DOMAIN_NAME and OS_PROJECT_DOMAIN_NAME from the environment, or the --os-... option of the same name.
    """


def main() -> None:
    """Entry point of the program; ends the process with an exit code that means something."""
    try:
        code = cli.main(prog_name="coriolis", standalone_mode=False)
    except FAILURES as failure:
        sys.exit(report(failure))
    # click gives back the code of an Exit, or what the command returned: nothing
    sys.exit(code if isinstance(code, int) else Exit.OK)


if __name__ == "__main__":
    main()
