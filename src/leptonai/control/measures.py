"""What the API counts about itself."""

from leptonai.monitoring.metrics import Counter, Histogram


class Measures:
    def __init__(self) -> None:
        self.requests = Counter(
            "lepton_api_requests_total",
            "Requests answered, by route and status.",
            ("method", "route", "status"),
        )
        self.seconds = Histogram(
            "lepton_api_request_seconds",
            "Time from a request to its answer; streams count until they end.",
            ("method", "route"),
        )
