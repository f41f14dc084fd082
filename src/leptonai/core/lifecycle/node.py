"""A node: seen, out of sight, and only after it was fenced, gone."""

from msgspec.structs import replace

from leptonai.core.records import Node, NodeState

LOST_AFTER_MS = 60_000  # out of sight for so long, a node is fenced and its replicas are replaced
SEEN_EVERY_MS = 60_000  # how stale the time of the last sight may be on record


def seen(node: Node, at_ms: int) -> Node:
    """Nothing is written while a node stays in sight, but the time once in a while."""
    if node.state is NodeState.READY and at_ms - node.seen_at_ms < SEEN_EVERY_MS:
        return node
    return replace(node, state=NodeState.READY, seen_at_ms=at_ms, unreachable_since_ms=None)


def unreachable(node: Node, since_ms: int) -> Node:
    if node.state is not NodeState.READY:
        return node
    return replace(node, state=NodeState.UNREACHABLE, unreachable_since_ms=since_ms)


def to_be_fenced(node: Node, now_ms: int) -> bool:
    since = node.unreachable_since_ms
    return (
        node.state is NodeState.UNREACHABLE
        and since is not None
        and now_ms - since >= LOST_AFTER_MS
    )


def fenced(node: Node) -> Node:
    return replace(node, state=NodeState.FENCED)
