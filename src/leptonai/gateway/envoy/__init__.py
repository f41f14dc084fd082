"""Envoy in front of the gateway: what it may do itself, and the files that tell it.

Envoy takes requests that are plainly let in to replicas that are plainly ready; all others it gives
to our gateway, which answers, holds, limits and counts them as it would without.
"""
