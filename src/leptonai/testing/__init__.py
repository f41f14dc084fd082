"""Builders, contract suites, fakes and the simulator: public, for adapters of your own."""
