"""A node as the scheduler sees it."""

from leptonai.core.records import Node, NodeState
from leptonai.core.scheduler.values import NodeView


def view_of(node: Node) -> NodeView:
    return NodeView(
        id=node.id,
        group=node.group,
        switch=node.switch,
        capacity=node.capacity,
        labels=node.labels,
        schedulable=node.state is NodeState.READY and not node.unschedulable,
    )
