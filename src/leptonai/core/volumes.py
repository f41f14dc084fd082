"""Which parts of a volume somebody may use, and what a mount means."""

from collections.abc import Iterable, Sequence

from leptonai.core.access import Principal, Role
from leptonai.core.records import Volume
from leptonai.errors import Forbidden, InvalidRequest
from leptonai.spec.containers import Mount
from leptonai.spec.storage import BY_USER, StoragePermission

DEFAULT_VOLUME = "default"
SHARED_VOLUME = "lepton-shared-fs"  # what many scripts call the one that everybody has
EVERYBODY = "*"
MAX_MOUNTS = 32
_SYSTEM = (
    *("", "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt"),
    *("opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "usr/bin", "usr/include"),
    *("usr/lib", "usr/lib64", "usr/local", "usr/sbin", "usr/share", "var", "var/lib", "var/log"),
)
SYSTEM_DIRECTORIES = frozenset(f"/{name}" for name in _SYSTEM)
NEVER_BELOW = ("/dev/", "/proc/", "/sys/")


def may_use(principal: Principal, rules: Sequence[StoragePermission], path: str) -> bool:
    """Whether all of what lies at and below a path is the principal's to use.

    Without rules everything is. With some, what no rule speaks of is nobody's; of several the
    longest counts, and no path is whose rules further down keep the principal out.
    """
    if not rules or principal.role is Role.ADMIN:
        return True
    here = _of(rules, path)
    if here is None or not _allows(here, principal.name, path):
        return False
    deeper = (rule for rule in rules if rule is not here and _below(rule.path_prefix, path))
    return all(_allows(rule, principal.name, rule.path_prefix) for rule in deeper)


def may_pass(principal: Principal, rules: Sequence[StoragePermission], path: str) -> bool:
    """Whether the principal may see that a directory is there: it leads to what may be used."""
    if may_use(principal, rules, path):
        return True
    here = _of(rules, path)
    if here is not None and _allows(here, principal.name, path):
        return True  # there is more in it than what is kept from them
    name = user_directory(principal.name)
    for rule in rules:
        own = f"{_normal(rule.path_prefix)}/{name}" if rule.subfolder_policy else rule.path_prefix
        if _below(own, path) and _allows(rule, principal.name, own):
            return True
    return False


def _of(rules: Sequence[StoragePermission], path: str) -> StoragePermission | None:
    """The rule that says most of it."""
    return max(
        (rule for rule in rules if _below(path, rule.path_prefix)),
        key=lambda rule: len(_normal(rule.path_prefix)),
        default=None,
    )


def user_directory(name: str) -> str:
    """What a member's directory is called: of an address the part before the @."""
    return name.partition("@")[0]


def check_mounts(principal: Principal, mounts: Sequence[Mount], volumes: Sequence[Volume]) -> None:
    """Raises:
    InvalidRequest: one cannot be done.
    Forbidden: a rule of its volume keeps the principal out.
    """
    if len(mounts) > MAX_MOUNTS:
        raise InvalidRequest(
            f"spec.mounts: {len(mounts)} of them", hint=f"At most {MAX_MOUNTS} are taken."
        )
    places = [_normal(mount.mount_path) for mount in mounts]
    for number, mount in enumerate(mounts):
        at = f"spec.mounts.{number}"
        check_mount(mount, at)
        if places.count(places[number]) > 1:
            raise InvalidRequest(f"{at}: two are mounted at one place", hint="Leave one out.")
        path = mount.path or ""
        if ".." in path.split("/") or "\0" in path:
            raise InvalidRequest(
                f"{at}.path: {path[:100]!r} leads out of the volume", hint="Leave out the '..'."
            )
        volume = meant_by(mount.source, volumes, at)
        if not may_use(principal, volume.rules, path):
            raise refused(principal.name, path, volume)


def refused(name: str, path: str, volume: Volume) -> Forbidden:
    return Forbidden(
        f"{name} may not use {path[:200] or '/'} of the volume {volume.name}",
        hint=f"`leptonai storage permission {volume.name}` shows who may.",
    )


def check_mount(mount: Mount, at: str) -> None:
    """Raises:
    InvalidRequest: nothing can be mounted there.
    """
    path = mount.mount_path
    if not path.startswith("/") or "\0" in path or any(p in (".", "..") for p in path.split("/")):
        raise InvalidRequest(
            f"{at}.mount_path: {path[:100]!r} is no absolute path", hint="For example /mnt/data."
        )
    if (_normal(path) or "/") in SYSTEM_DIRECTORIES:
        raise InvalidRequest(
            f"{at}.mount_path: {path[:100]} is a directory of the system",
            hint="Mount it further down, for example at /mnt/data.",
        )
    if f"{_normal(path)}/".startswith(NEVER_BELOW) or ":" in path:
        raise InvalidRequest(
            f"{at}.mount_path: nothing can be mounted at {path[:100]}", hint="Use /mnt/data."
        )


def meant_by(source: str | None, volumes: Iterable[Volume], at: str) -> Volume:
    """The volume of `node-local`, `node-nfs:NAME`, `NAME`, or nothing, which is the default one.

    Raises:
        InvalidRequest: there is none.
    """
    source = source or ""
    kind, _, name = source.partition(":") if source.startswith("node-") else ("", "", source)
    known = {volume.name: volume for volume in volumes}
    wanted = name or DEFAULT_VOLUME
    if wanted == SHARED_VOLUME and wanted not in known:
        wanted, kind = DEFAULT_VOLUME, ""
    found = known.get(wanted)
    if found is None or (kind and kind != f"node-{found.source}"):
        names = ", ".join(f"node-{each.source}:{each.name}" for each in known.values())
        raise InvalidRequest(
            f"{at}.from: there is no volume {source or DEFAULT_VOLUME!r}"[:200],
            hint=f"There are {names}." if names else "An admin can add one.",
        )
    return found


def _allows(rule: StoragePermission, name: str, path: str) -> bool:
    if rule.subfolder_policy == BY_USER:
        return _below(path, f"{_normal(rule.path_prefix)}/{user_directory(name)}")
    return EVERYBODY in rule.allowed_users or name in rule.allowed_users


def _below(path: str, prefix: str) -> bool:
    return f"{_normal(path)}/".startswith(f"{_normal(prefix)}/")


def _normal(path: str) -> str:
    return "".join(f"/{part}" for part in path.split("/") if part)
