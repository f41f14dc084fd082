"""Adapters that run replicas somewhere."""
