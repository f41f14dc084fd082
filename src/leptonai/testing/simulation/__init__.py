"""The whole control plane in virtual time, while everything goes wrong as a seed decides."""
