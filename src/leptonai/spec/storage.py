"""Files that outlive what runs: volumes of node groups, their files, and buckets."""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from leptonai.spec.metadata import Metadata, Wire

MAX_USERS = 1_000
BY_USER = "by_user"
Users = Annotated[list[str], Meta(max_length=MAX_USERS)]


class StoragePermission(Wire, frozen=True, omit_defaults=False):
    """Who may use what lies below a path of a volume: those named ("*" is everybody), or with
    "by_user" each member the directory of the member's name in it."""

    path_prefix: str
    allowed_users: Users = field(default_factory=list)
    subfolder_policy: Literal["", "by_user"] = ""
    nodegroup_id: str | None = None


class FileEntry(Wire, frozen=True, omit_defaults=False):
    type: Literal["dir", "file"]
    name: str
    path: str  # in the volume
    size_bytes: int = 0
    modified_at: int = 0  # milliseconds since 1970
    by_link: bool = (
        False  # told is what a link of this name leads to: a tree of files may have loops
    )


class FileSystemStatus(Wire, frozen=True, omit_defaults=False):
    total_usage_bytes: int = 0


class FileSystem(Wire, frozen=True, omit_defaults=False):
    """A volume, with what its files take."""

    metadata: Metadata
    status: FileSystemStatus


class UploadState(Wire, frozen=True, omit_defaults=False):
    """How much of an upload has come; where it goes on."""

    received_bytes: int
    complete: bool = False


class FileDigest(Wire, frozen=True, omit_defaults=False):
    sha256: str
    size_bytes: int


class S3Secrets(Wire, frozen=True, rename="camel"):
    access_key_secret_name: str
    secret_key_secret_name: str


class SecretCredentials(Wire, frozen=True, rename={"s3": "s3Credentials"}):
    s3: S3Secrets | None = None


class BucketCredentials(Wire, frozen=True, rename={"kind": "type", "secrets": "leptonSecret"}):
    kind: str  # leptonSecret, wif
    secrets: SecretCredentials | None = None


class BucketProvider(Wire, frozen=True, rename={"kind": "type"}):
    kind: Literal["aws", "s3", "gcs"]
    aws: dict[str, Any] | None = None  # region
    s3: dict[str, Any] | None = None  # endpoint, region
    gcs: dict[str, Any] | None = None  # projectId
    parameters: dict[str, str] | None = None


class Bucket(Wire, frozen=True):
    bucket: str
    provider: BucketProvider
    credentials: BucketCredentials | None = None
    pvc: dict[str, Any] | None = None
    aistore: dict[str, Any] | None = None


class DataSourcePermissions(Wire, frozen=True):
    allowed_users: Users | None = None


class DataSourceSpec(Wire, frozen=True, rename={"bucket": "object"}):
    name: str
    workspace: str
    bucket: Bucket  # "object" on the wire
    description: str | None = None
    permissions: DataSourcePermissions | None = None


class DataSourceStatus(Wire, frozen=True, omit_defaults=False):
    state: str = "Ready"
    ready: bool = True


class StorageDataSource(Wire, frozen=True, omit_defaults=False):
    metadata: Metadata
    spec: DataSourceSpec
    status: DataSourceStatus = field(default_factory=DataSourceStatus)


class DataSourceList(Wire, frozen=True, omit_defaults=False):
    items: list[StorageDataSource]
