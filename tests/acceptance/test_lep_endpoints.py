"""Endpoints and ingresses with the published client, on both wires. `make test-lep` runs this."""

import json
import urllib.request
from collections import Counter

import pytest
from lep_client import Lep

pytestmark = pytest.mark.lep

SERVER = "exec python3 -m http.server --bind 127.0.0.1 $PORT"
SAYS = (
    'python3 -c "import http.server as h, os\n'
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(b'{}')\n"
    "h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\""
)


def create(lep: Lep, name: str, command: str = SERVER, *options: str) -> str:
    more = options or ("-r", "1", "--allow-unauthenticated-access", "--public")
    container = ("--container-image", "python:3", "--container-command", command)
    return lep(
        "endpoint", "create", "-n", name, *container, "-rs", "cpu.small",
        "--container-port", "8080", *more,
    )  # fmt: skip


@pytest.fixture(params=["deployments", "endpoints"], scope="module")
def wire(request, leptonai):
    """The older wire, then the newer one."""
    flag = "--feature" if request.param == "endpoints" else "--no-feature"
    leptonai("workspace", "set", flag, "new-deployment-api")
    yield request.param
    leptonai("workspace", "set", "--no-feature", "new-deployment-api")


def test_an_endpoint_from_its_making_to_its_removal(lep: Lep, wire: str) -> None:
    name = f"web-{wire}"
    create(lep, name)
    lep.until("Ready", "endpoint", "status", "-n", name)
    assert "already exists" in create_again(lep, name)
    shown = lep.answer("endpoint", "get", "-n", name)
    assert shown["status"]["state"] == "Ready"
    with urllib.request.urlopen(shown["status"]["endpoint"]["external_endpoint"]) as answer:
        assert answer.status == 200
    assert name in lep("endpoint", "list")
    assert "Ready" in lep("endpoint", "events", "-n", name)
    lep("endpoint", "update", "-n", name, "-r", "2")
    lep("endpoint", "update", "-n", name, "--load-balance", "sticky-routing")
    lep("endpoint", "update", "-n", name, "--load-balance", "least-request")
    lep("endpoint", "update", "-n", name, "--tokens", "secret-token")
    spec = lep.answer("endpoint", "get", "-n", name)["spec"]
    assert spec["load_balance_config"] == {"least_request": {}}
    assert [token["value"] for token in spec["api_tokens"]] != ["secret-token"]
    assert spec["resource_requirement"]["min_replicas"] == 2
    lep("endpoint", "update", "-n", name, "-r", "1")
    lep("endpoint", "restart", "-n", name)
    lep("endpoint", "stop", "-n", name)
    lep.until("Stopped", "endpoint", "status", "-n", name)
    assert "No action taken" in lep("endpoint", "stop", "-n", name)
    lep("endpoint", "update", "-n", name, "--min-replicas", "1")
    lep.until("Ready", "endpoint", "status", "-n", name)
    lep("endpoint", "remove", "-n", name)
    assert name not in lep("endpoint", "list")


def create_again(lep: Lep, name: str) -> str:
    return lep(
        "endpoint", "create", "-n", name, "--container-image", "i", "-rs", "cpu.small",
        "--container-command", "true", code=1,
    )  # fmt: skip


def test_a_rerun_takes_the_name_of_the_one_before(lep: Lep, wire: str) -> None:
    name = f"again-{wire}"
    create(lep, name)
    create(lep, name, SERVER, "-r", "1", "--allow-unauthenticated-access", "--public", "--rerun")
    lep.until("Ready", "endpoint", "status", "-n", name)
    lep("endpoint", "remove", "-n", name)


@pytest.mark.parametrize(
    "options", [("-aq", "1,3,2.5"), ("-ad", "1,600s"), ("--autoscale-gpu-util", "1,2,50%")]
)
def test_autoscaling_options(lep: Lep, options: tuple[str, ...]) -> None:
    create(lep, "scaled", SERVER, "--tokens", "a-token", *options)
    assert lep.answer("endpoint", "get", "-n", "scaled")["spec"]["auto_scaler"]
    lep("endpoint", "update", "-n", "scaled", "-r", "1")
    lep("endpoint", "remove", "-n", "scaled")


def test_endpoints_that_are_secure_by_default(lep: Lep, leptonai) -> None:
    leptonai("workspace", "set", "--feature", "secure-endpoint-defaults")
    try:
        create(lep, "secure", SERVER, "-r", "1")
        (token,) = lep.answer("endpoint", "get", "-n", "secure")["spec"]["api_tokens"]
        assert "***" in token["value"]
        lep("endpoint", "remove", "-n", "secure")
    finally:
        leptonai("workspace", "set", "--no-feature", "secure-endpoint-defaults")


def test_an_ingress_shares_a_domain_by_weight(lep: Lep, leptonai) -> None:
    for name in ("stable", "canary"):
        create(lep, name, SAYS.format(name))
        lep.until("Ready", "endpoint", "status", "-n", name)
    lep("ingress", "create", "-d", "models.example.org")
    (made,) = json.loads(leptonai("ingress", "list", "-o", "json"))
    ingress = made["metadata"]["name"]
    assert "models.example.org" in lep("ingress", "list")
    lep("ingress", "add-endpoint", "-n", ingress, "-e", "stable", "-w", "100")
    lep("ingress", "add-endpoint", "-n", ingress, "-e", "canary", "-w", "20")
    lep("ingress", "update-endpoint", "-n", ingress, "-e", "canary", "-w", "25")
    assert "leads to stable, canary" in lep("ingress", "list", "-s", "active")

    gateway = json.loads(leptonai("status", "-o", "json"))["gateway_url"]
    asked = urllib.request.Request(gateway, headers={"Host": "models.example.org"})
    told = Counter()
    for _ in range(20):
        with urllib.request.urlopen(asked) as answer:
            told[answer.read()] += 1
    assert set(told) == {b"stable", b"canary"}
    assert abs(told[b"stable"] - 16) <= 1

    lep("ingress", "set-endpoints", "-n", ingress, "-e", "canary:100")
    lep("ingress", "remove-endpoint", "-n", ingress, "-e", "canary")
    assert lep.answer("ingress", "get", "-n", ingress)["spec"].get("endpoints") in (None, [])
    lep("ingress", "delete", "-n", ingress)
    for name in ("stable", "canary"):
        lep("endpoint", "remove", "-n", name)
