"""`leptonai storage source`: buckets that workloads are given credentials for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from leptonai.cli.groups import Group
from leptonai.cli.output import age, answer, print_facts, print_json, print_list, say
from leptonai.cli.session import connect, output_option

if TYPE_CHECKING:
    from leptonai.spec.storage import BucketCredentials, StorageDataSource

F = TypeVar("F", bound=Callable[..., Any])

source = Group(
    name="source",
    help="Offer buckets as data sources, which workloads open with --bucket.",
    example="""\
leptonai storage source add pets --bucket pets --provider aws --region eu-west-1 \\
    --access-key PETS_ID --secret-key PETS_KEY
leptonai job create -n train --bucket pets -- aws s3 ls s3://pets""",
)


def group_option(function: F) -> F:
    return click.option(
        "--node-group", default="local", show_default=True, help="Whose workloads may open it."
    )(function)


@source.does("list", example="leptonai storage source list")
@group_option
@output_option
def list_(node_group: str, output: str) -> None:
    """List the data sources."""
    with connect() as client:
        found = client.storage.data_sources(node_group)
    print_list(
        found,
        output,
        ("NAME", "PROVIDER", "BUCKET", "WHO", "AGE"),
        lambda each: (
            each.spec.name,
            each.spec.bucket.provider.kind,
            each.spec.bucket.bucket,
            _who(each),
            age(each.metadata.created_at),
        ),
        none="no data sources; an admin adds one: leptonai storage source add",
    )


@source.does("get", example="leptonai storage source get pets")
@group_option
@output_option
@click.argument("name")
def get(node_group: str, output: str, name: str) -> None:
    """Show one data source: never what its credentials are, but which secrets hold them."""
    with connect() as client:
        found = client.storage.data_source(node_group, name)
    if output == "json":
        print_json(found)
        return
    bucket = found.spec.bucket
    secrets = bucket.credentials.secrets if bucket.credentials else None
    s3 = secrets.s3 if secrets else None
    settings = bucket.provider.aws or bucket.provider.s3 or bucket.provider.gcs or {}
    print_facts(
        (
            ("name", found.spec.name),
            ("about", found.spec.description or ""),
            ("bucket", bucket.bucket),
            ("provider", bucket.provider.kind),
            *((name, str(value)) for name, value in sorted(settings.items())),
            ("credentials", bucket.credentials.kind if bucket.credentials else "the machine's own"),
            ("access key", f"secret {s3.access_key_secret_name}" if s3 else ""),
            ("secret key", f"secret {s3.secret_key_secret_name}" if s3 else ""),
            ("who", _who(found)),
        )
    )


@source.does(
    "add",
    example="""\
leptonai secret create PETS_ID && leptonai secret create PETS_KEY
leptonai storage source add pets --bucket pets --provider aws --region eu-west-1 \\
    --access-key PETS_ID --secret-key PETS_KEY
leptonai storage source add local --bucket data --provider s3 \\
    --endpoint http://127.0.0.1:9000 --access-key MINIO_ID --secret-key MINIO_KEY
leptonai storage source add maps --bucket maps --provider gcs --gcs-project atlas""",
)
@click.option("--bucket", required=True, metavar="NAME", help="Of the bucket, at its provider.")
@click.option(
    "--provider",
    type=click.Choice(["aws", "s3", "gcs"]),
    required=True,
    help="AWS, another one that speaks S3, or Google Cloud.",
)
@click.option("--region", help="Of an aws or s3 bucket.")
@click.option("--endpoint", metavar="URL", help="Of an s3 bucket.")
@click.option("--gcs-project", metavar="ID", help="Of a gcs bucket.")
@click.option("--access-key", metavar="SECRET", help="The secret that holds the access key's id.")
@click.option("--secret-key", metavar="SECRET", help="The secret that holds the access key.")
@click.option("--about", help="A word on what is in it.")
@click.option("--user", "users", multiple=True, metavar="NAME", help="May open it; repeatable.")
@group_option
@output_option
@click.argument("name")
def add(
    bucket: str,
    provider: str,
    region: str | None,
    endpoint: str | None,
    gcs_project: str | None,
    access_key: str | None,
    secret_key: str | None,
    about: str | None,
    users: tuple[str, ...],
    node_group: str,
    output: str,
    name: str,
) -> None:
    """Offer a bucket. Without keys the machine's own credentials open it. For admins."""
    import msgspec

    from leptonai.spec.storage import Bucket, BucketProvider, DataSourcePermissions, DataSourceSpec

    wanted = {"aws": (region,), "s3": (endpoint,), "gcs": (gcs_project,)}[provider]
    if not all(wanted):
        option = {"aws": "--region", "s3": "--endpoint", "gcs": "--gcs-project"}[provider]
        raise click.UsageError(f"a bucket of {provider} needs {option}")
    settings = {
        "aws": {"region": region},
        "s3": {"endpoint": endpoint, "region": region},
        "gcs": {"projectId": gcs_project},
    }[provider]
    given = {field: value for field, value in settings.items() if value is not None}
    with connect() as client:
        spec = DataSourceSpec(
            name=name,
            workspace=client.connection.workspace,
            description=about,
            bucket=Bucket(
                bucket=bucket,
                provider=msgspec.convert({"type": provider, provider: given}, BucketProvider),
                credentials=_credentials(access_key, secret_key),
            ),
            permissions=DataSourcePermissions(allowed_users=[*users]) if users else None,
        )
        client.storage.add_data_source(node_group, spec)
        made = client.storage.data_source(node_group, name)
    if output == "json":
        print_json(made)
    else:
        click.echo(f"added the data source {name}")
        say(f"next: leptonai job create -n look --bucket {name} -- env")


@source.does(
    "permit",
    example="leptonai storage source permit pets --user ann --user ben\n"
    "leptonai storage source permit pets --everybody",
)
@click.option("--user", "users", multiple=True, metavar="NAME", help="May open it; repeatable.")
@click.option("--everybody", is_flag=True, help="May open it.")
@group_option
@click.argument("name")
def permit(users: tuple[str, ...], everybody: bool, node_group: str, name: str) -> None:
    """Say who may open a data source, in place of who could before. For admins."""
    from msgspec.structs import replace

    from leptonai.spec.storage import DataSourcePermissions

    if bool(users) == everybody:
        raise click.UsageError("say --user or --everybody")
    with connect() as client:
        spec = client.storage.data_source(node_group, name).spec
        allowed = DataSourcePermissions(allowed_users=[*users]) if users else None
        client.storage.update_data_source(node_group, replace(spec, permissions=allowed))


@source.does("remove", example="leptonai storage source remove pets")
@group_option
@output_option
@click.argument("name")
def remove(node_group: str, output: str, name: str) -> None:
    """Take a bucket off; its objects stay. For admins."""
    with connect() as client:
        client.storage.delete_data_source(node_group, name)
    answer({"name": name, "action": "removed"}, output, f"removed the data source {name}")


def _credentials(access_key: str | None, secret_key: str | None) -> BucketCredentials | None:
    from leptonai.spec.storage import BucketCredentials, S3Secrets, SecretCredentials

    if (access_key is None) != (secret_key is None):
        raise click.UsageError("--access-key and --secret-key go together")
    if access_key is None or secret_key is None:
        return None
    keys = S3Secrets(access_key_secret_name=access_key, secret_key_secret_name=secret_key)
    return BucketCredentials(kind="leptonSecret", secrets=SecretCredentials(s3=keys))


def _who(each: StorageDataSource) -> str:
    users = each.spec.permissions.allowed_users if each.spec.permissions else None
    return "everybody" if not users or "*" in users else ", ".join(users)
