"""Metrics, logs, events and the audit trail."""
