from leptonai.monitoring.audit import AuditLine, AuditLog
from leptonai.monitoring.metrics import Counter, Histogram, gauge, text


def test_a_counter_has_a_line_for_each_of_its_labels():
    counter = Counter("hits_total", "Hits.", ("path",))
    counter.add("/a")
    counter.add('/"\n\\', amount=2.5)
    assert text(counter.lines()) == (
        "# HELP hits_total Hits.\n"
        "# TYPE hits_total counter\n"
        'hits_total{path="/\\"\\n\\\\"} 2.5\n'
        'hits_total{path="/a"} 1\n'
    )


def test_buckets_of_a_histogram_count_all_that_is_below_them():
    histogram = Histogram("wait_seconds", "Waits.", bounds=(0.1, 1.0))
    for seconds in (0.1, 0.5, 2.0):
        histogram.observe(seconds)
    assert text(histogram.lines()) == (
        "# HELP wait_seconds Waits.\n"
        "# TYPE wait_seconds histogram\n"
        'wait_seconds_bucket{le="0.1"} 1\n'
        'wait_seconds_bucket{le="1"} 2\n'
        'wait_seconds_bucket{le="+Inf"} 3\n'
        "wait_seconds_sum 2.6\n"
        "wait_seconds_count 3\n"
    )


def test_a_gauge_is_measured_when_it_is_asked_for():
    assert list(gauge("jobs", "Jobs.", {"Running": 2}, "state"))[-1] == 'jobs{state="Running"} 2'


def a_line(number: int) -> AuditLine:
    return AuditLine(
        at_ms=number,
        request="r",
        principal="ana",
        role="member",
        workspace="ws",
        action="POST /jobs",
        status=200,
    )


def test_an_audit_log_that_is_full_starts_anew_and_keeps_the_last_one(tmp_path, monkeypatch):
    monkeypatch.setattr("leptonai.monitoring.audit.MAX_BYTES", 300)
    path = tmp_path / "logs" / "audit.log"
    audit = AuditLog(path)
    for number in range(10):
        audit.write(a_line(number))
    audit.close()
    assert path.with_name("audit.log.1").exists()
    assert sum(each.stat().st_size for each in path.parent.iterdir()) < 1_000


def test_an_audit_line_that_cannot_be_written_breaks_nothing(tmp_path, caplog):
    (tmp_path / "logs").touch()
    AuditLog(tmp_path / "logs" / "audit.log").write(a_line(1))
    assert "an audit line was lost" in caplog.text
