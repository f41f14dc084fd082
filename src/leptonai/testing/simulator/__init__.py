"""Event simulators that run the platform's own scheduler over recorded or published workloads."""
