"""Tokens, secrets, and the key that protects both."""
