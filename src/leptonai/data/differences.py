"""What differs between two versions. Pure."""

import msgspec

from leptonai.data.manifest import Manifest


class Differences(msgspec.Struct, frozen=True):
    added: tuple[str, ...]  # paths
    removed: tuple[str, ...]
    changed: tuple[str, ...]  # with other bytes
    unchanged: int  # files
    facts: tuple[str, ...]  # what else: type, classes, columns


def differences(before: Manifest, after: Manifest) -> Differences:
    """Cost: about 1 µs a file, whatever their sizes, for contents are known by their digests."""
    one, other = _digests(before), _digests(after)
    common = one.keys() & other.keys()
    changed = tuple(sorted(path for path in common if one[path] != other[path]))
    return Differences(
        added=tuple(sorted(other.keys() - one.keys())),
        removed=tuple(sorted(one.keys() - other.keys())),
        changed=changed,
        unchanged=len(common) - len(changed),
        facts=tuple(_facts(before, after)),
    )


def _digests(manifest: Manifest) -> dict[str, bytes]:
    data = manifest.columns["digest"].tobytes()
    return {path: data[32 * n : 32 * n + 32] for n, path in enumerate(manifest.paths())}


def _facts(before: Manifest, after: Manifest) -> list[str]:
    one, other = before.facts, after.facts
    found = []
    if one.type != other.type:
        found.append(f"type: {one.type}, now {other.type}")
    gone, come = {*one.classes} - {*other.classes}, {*other.classes} - {*one.classes}
    found += [f"class {name} has gone" for name in sorted(gone)]
    found += [f"class {name} is new" for name in sorted(come)]
    was, now = ({each.name: each.type for each in facts.schema} for facts in (one, other))
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            found.append(f"column {name}: {was.get(name, 'none')}, now {now.get(name, 'none')}")
    return found
