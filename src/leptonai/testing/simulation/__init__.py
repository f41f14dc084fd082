"""A seeded simulation of the whole control plane, in virtual time and with everything going wrong."""
