"""What a node of a Ray cluster runs: `ray start`, with ports of its own and the cluster's token."""

from leptonai.core.lifecycle.program import ANY_PORT, affine_to, mounts_of
from leptonai.core.records import Program, Replica
from leptonai.core.resources import MILLIS
from leptonai.core.shapes import requested_by
from leptonai.spec.rayclusters import RayGroup

# A head listens for its dashboard, for its workers (GCS), for its agent and for Ray clients; a
# worker for its agent. The first is the one that answers once the node is ready.
HEAD_PORTS = 4
WORKER_PORTS = 1
NO_RAY, OLD_RAY = 127, 69  # exit codes of the script below
TOLD_BY_EXIT = {
    NO_RAY: "Ray is not installed where the platform runs: pip install 'ray[default]>=2.52' "
    "there, and it starts by itself",
    OLD_RAY: "the Ray there is older than 2.52, which cannot ask who connects: "
    "pip install 'ray[default]>=2.52'",
}
LEAST_STORE_BYTES = 80 << 20  # that Ray accepts for its objects
STORE_SHARE = 0.3  # of a node's memory, as Ray's own default
PATIENCE_S = 3  # with Ray's own end, before it is killed: less than any grace that it gets

# Arguments: those of `ray start`, then "--" and the user's command, which runs before it.
# `python` then means the one that has Ray, to the user's command and to Ray jobs.
# Sockets have short paths or none, so Ray's directory is in /tmp: below one that is ours alone,
# since Ray lets everybody into its own. What a killed attempt has left goes with the next.
_SCRIPT = f"""\
set -f
if ! command -v ray >/dev/null; then
  echo "ray: not found. pip install 'ray[default]>=2.52' where the platform runs" >&2
  exit {NO_RAY}
fi
version=$(ray --version) || exit
version=${{version##* }}
major=${{version%%.*}} rest=${{version#*.}}
minor=${{rest%%.*}}
case $major$minor in "" | *[!0-9]*) major=0 minor=0 ;; esac
if [ "$major" -lt 2 ] || {{ [ "$major" -eq 2 ] && [ "$minor" -lt 52 ]; }}; then
  echo "Ray $version cannot ask who connects: install 2.52 or newer" >&2
  exit {OLD_RAY}
fi
PATH=$(dirname "$(command -v ray)"):$PATH
flags=
while [ "$1" != -- ]; do flags="$flags $1"; shift; done
shift
if [ $# -gt 0 ]; then
  "$@" || {{ echo "the command before Ray ended with $?" >&2; exit 1; }}
fi
own=/tmp/ray-${{LEPTON_REPLICA_ID##*-}}
set +f; rm -rf "$own".??????; set -f
own=$(mktemp -d "$own.XXXXXX") || exit
ray start --block --disable-usage-stats --log-style=record --log-color=false \
  --temp-dir="$own/r" --min-worker-port=0 --max-worker-port=0 $flags &
ray=$!
trap 'kill -TERM $ray; (sleep {PATIENCE_S}; kill -KILL $ray) &' TERM INT
wait $ray; code=$?
while kill -0 $ray; do wait $ray; code=$?; done 2>/dev/null
rm -rf "$own" 2>/dev/null || {{ sleep 1; rm -rf "$own"; }}  # something of it may still write
exit $code
"""


def program_of_node(group: RayGroup, *, is_head: bool) -> Program:
    """Its command is the user's own alone: the rest is known once it has a node and ports."""
    requested = requested_by(group)
    nodes, groups = affine_to(group.affinity)
    container = group.container
    return Program(
        command=tuple((container.command if container else None) or ()),
        envs=tuple(group.envs or ()),
        needs=requested.needs,
        limit_cpu_millis=requested.limit_cpu_millis,
        limit_memory_bytes=requested.limit_memory_bytes,
        ports=(ANY_PORT,) * (HEAD_PORTS if is_head else WORKER_PORTS),
        image=(container.image if container else None) or "",
        mounts=mounts_of(group.mounts),
        allowed_nodes=nodes,
        allowed_groups=groups,
    )


def start_command(
    node: Replica, head: Replica, *, address: str, head_address: str
) -> tuple[str, ...]:
    """What starts Ray on a placed node. It holds no secret: everybody on a machine may read it.

    Args:
        head: the same replica where that is the head; placed.
        address: of the node; `head_address` of the head's.
    """
    needs = node.program.needs
    flags = [
        f"--node-ip-address={address}",
        f"--num-cpus={max(1, needs.cpu_millis // MILLIS)}",
        f"--num-gpus={needs.gpus}",
        "--object-store-memory="
        + str(max(LEAST_STORE_BYTES, int(needs.memory_bytes * STORE_SHARE))),
    ]
    if node.id == head.id:
        dashboard, gcs, agent, client = node.ports
        flags += [
            "--head",
            f"--port={gcs}",
            f"--dashboard-host={address}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}",
        ]
    else:
        flags += [
            f"--address={head_address}:{head.ports[1]}",
            f"--dashboard-agent-listen-port={node.ports[0]}",
        ]
    return ("/bin/sh", "-c", _SCRIPT, "ray", *flags, "--", *node.program.command)


def token_variables(token: str) -> dict[str, str]:
    """That Ray, and the jobs on it, know each other by."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
