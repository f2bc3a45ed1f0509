"""``coriolis user``: the users file of the embedded identity. Gateways notice changes by themselves."""

from __future__ import annotations

from pathlib import Path

import click

from coriolis.cli.output import emit, output_option, print_table

FILE = click.option(
    "--users-file", type=click.Path(path_type=Path), default=Path("users.json"), show_default=True, help="JSON or TOML."
)


@click.group()
def user() -> None:
    """Keep the users file of the embedded identity.

    \b
      coriolis user add alice --project web --role member --users-file users.json
      coriolis user list --users-file users.json
    """


@user.command()
@click.argument("name")
@click.option("--project", required=True, help="Made if it is new.")
@click.option("--role", "roles", multiple=True, default=("member",), show_default=True, help="admin, member, reader.")
@click.option("--ask-password", is_flag=True, help="Ask for a password instead of making one up.")
@click.option("--auth-url", default="http://127.0.0.1:7667/v3", show_default=True, help="For the printed variables.")
@FILE
def add(name: str, project: str, roles: tuple[str, ...], ask_password: bool, auth_url: str, users_file: Path) -> None:
    """Add a user, or give one roles in a further project. Prints the variables to log in with."""
    from gateway.users_file import add_user

    password = click.prompt("Password", hide_input=True, confirmation_prompt=True) if ask_password else None
    made = add_user(users_file, name, project, list(roles), password=password)
    text = made.openrc(auth_url)
    if ask_password or not made.password:
        text = "".join(line for line in text.splitlines(keepends=True) if "OS_PASSWORD" not in line)
    click.echo(text, nl=False)


@user.command("list")
@output_option
@FILE
def list_users(users_file: Path, output: str) -> None:
    """List users and their roles."""
    from gateway.users_file import load_users

    users = load_users(users_file)
    names = {project.id: project.name for project in users.projects}
    found = [
        {"id": one.id, "name": one.name, "enabled": one.enabled, "roles": {names[p]: r for p, r in one.roles.items()}}
        for one in users.users
    ]
    if not emit({"users": found}, output):
        print_table(("ID", "Name", "Enabled", "Roles"), [tuple(one.values()) for one in found])


@user.command()
@click.argument("name")
@FILE
def remove(name: str, users_file: Path) -> None:
    """Remove a user; its tokens stop working at once."""
    from gateway.users_file import remove_user

    remove_user(users_file, name)
