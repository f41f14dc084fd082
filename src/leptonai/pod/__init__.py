"""What runs in a pod: sessions, forwarded ports, files that are synchronised, SSH, JupyterLab.

It is the pod's own process; all that people start in the pod are its children, and so end with it.
"""
